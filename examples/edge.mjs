// Embed images and judge them with onnxruntime-node and sharp: node edge.mjs MODEL IMAGE...
//
//     npm install --ignore-scripts onnxruntime-node sharp
//
// What `edge.py` does, for upright RGB images: sharp's cubic is not Pillow's to the last
// bit, so embeddings agree to about three digits, and to six where nothing is resized.

import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import sharp from "sharp";

// ONNX is a protobuf; its field 14 is a list of properties, each a key (1) and a value (2).
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0, factor = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * factor;
      factor *= 128;
    } while (byte > 127);
    return value;
  };
  while (at < bytes.length) {
    const tag = varint(), number = Math.floor(tag / 8), kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else {
      const length = varint();
      yield [number, bytes.subarray(at, at + length)];
      at += length;
    }
  }
}

export function metadata(file) {
  const text = (bytes) => Buffer.from(bytes).toString("utf8");
  return Object.fromEntries(
    [...fields(file)]
      .filter(([number]) => number === 14)
      .map(([, entry]) => [...fields(entry)].map(([, bytes]) => text(bytes))),
  );
}

// The centred box, `crop` of the shorter side, at the model's size: uint8 [height, width, 3].
async function pixels(path, { height, width, crop }) {
  const image = sharp(path).rotate().flatten({ background: "white" }).toColourspace("srgb");
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  const scale = crop * Math.min(info.width / width, info.height / height);
  const w = Math.min(Math.round(width * scale), info.width);
  const h = Math.min(Math.round(height * scale), info.height);
  const left = Math.floor((info.width - w) / 2), top = Math.floor((info.height - h) / 2);
  return sharp(data, { raw: { width: info.width, height: info.height, channels: info.channels } })
    .extract({ left, top, width: w, height: h })
    .resize(width, height, { kernel: "cubic", fit: "fill" })
    .removeAlpha()
    .toColourspace("srgb")
    .raw()
    .toBuffer();
}

const [model, ...images] = process.argv.slice(2);
const properties = metadata(readFileSync(model));
const geometry = JSON.parse(properties["isogon.preprocessing"]);
const { scores, alpha } = JSON.parse(properties["isogon.calibration"]);
const session = await ort.InferenceSession.create(model);
for (const path of images) {
  const shape = [1, geometry.height, geometry.width, 3];
  const input = new ort.Tensor("uint8", await pixels(path, geometry), shape);
  const { embedding, ood_score } = await session.run({ images: input });
  const score = ood_score.data[0]; // larger = less familiar
  const p = (1 + scores.filter((one) => one >= score).length) / (scores.length + 1);
  const verdict = p <= alpha ? "unfamiliar" : "familiar";
  console.log(JSON.stringify({ path, p, verdict, score, embedding: [...embedding.data] }));
}
