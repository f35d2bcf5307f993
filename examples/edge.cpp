// Embed JPEGs and judge them in C++, with OpenVINO and libjpeg: edge MODEL IMAGE...
//
//     pip install openvino; OV=$(python -c 'import openvino; print(openvino.__path__[0])')
//     g++ -O2 -std=c++17 edge.cpp -o edge -I$OV/include $OV/libs/libopenvino.so.* -ljpeg
//     LD_LIBRARY_PATH=$OV/libs ./edge model.onnx photo.jpg
//
// Upright JPEGs in RGB or grey. It averages over each pixel's box where Isogon resizes by
// bicubic, so embeddings are close to Isogon's, and equal to rounding without a resize.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <regex>
#include <string>
#include <vector>
#include <jpeglib.h>
#include <openvino/openvino.hpp>

struct Image { int width, height; std::vector<uint8_t> rgb; };

Image decoded(const char* path) {
  FILE* file = std::fopen(path, "rb");
  if (!file) throw std::runtime_error(std::string("cannot open ") + path);
  jpeg_decompress_struct jpeg;
  jpeg_error_mgr errors;
  jpeg.err = jpeg_std_error(&errors);  // ends the process with a message
  jpeg_create_decompress(&jpeg);
  jpeg_stdio_src(&jpeg, file);
  jpeg_read_header(&jpeg, TRUE);
  jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&jpeg);
  int width = jpeg.output_width, height = jpeg.output_height;
  Image image{width, height, std::vector<uint8_t>(size_t(3) * width * height)};
  while (jpeg.output_scanline < jpeg.output_height) {
    uint8_t* row = &image.rgb[size_t(3) * width * jpeg.output_scanline];
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  jpeg_destroy_decompress(&jpeg);
  std::fclose(file);
  return image;
}

// The centred box, `crop` of the shorter side, averaged into width x height pixels.
std::vector<uint8_t> pixels(const Image& image, int width, int height, double crop) {
  double scale = crop * std::min(double(image.width) / width, double(image.height) / height);
  double left = (image.width - width * scale) / 2, top = (image.height - height * scale) / 2;
  std::vector<uint8_t> result(size_t(3) * width * height);
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
      double x0 = left + x * scale, x1 = x0 + scale, y0 = top + y * scale, y1 = y0 + scale;
      double sum[3] = {}, area = 0;
      for (int v = std::max(0, int(y0)); v < std::min(double(image.height), y1); v++)
        for (int u = std::max(0, int(x0)); u < std::min(double(image.width), x1); u++) {
          double share = (std::min(u + 1.0, x1) - std::max(double(u), x0)) *
                         (std::min(v + 1.0, y1) - std::max(double(v), y0));
          const uint8_t* from = &image.rgb[3 * (size_t(v) * image.width + u)];
          for (int c = 0; c < 3; c++) sum[c] += share * from[c];
          area += share;
        }
      for (int c = 0; c < 3; c++)
        result[3 * (size_t(y) * width + x) + c] = uint8_t(std::lround(sum[c] / area));
    }
  return result;
}

int main(int count, char** given) {
  ov::Core core;
  auto model = core.read_model(given[1]);
  auto property = [&](const char* name) {
    return model->get_rt_info<std::string>("framework", std::string("isogon.") + name);
  };
  auto number = [](const std::string& json, const std::string& key) {
    std::smatch found;
    std::regex_search(json, found, std::regex("\"" + key + "\":\\s*([-+.0-9eE]+)"));
    return std::stod(found[1]);
  };
  std::string geometry = property("preprocessing"), calibration = property("calibration");
  size_t height = number(geometry, "height"), width = number(geometry, "width");
  std::vector<double> familiar;  // OOD scores; larger = less familiar
  const char* at = std::strchr(calibration.c_str(), '[') + 1;
  for (char* end; *at && *at != ']'; at = *end == ',' ? end + 1 : end)
    familiar.push_back(std::strtod(at, &end));
  auto compiled = core.compile_model(model, "CPU", {{"INFERENCE_PRECISION_HINT", "f32"}});
  auto request = compiled.create_infer_request();
  for (int image = 2; image < count; image++) {
    auto shown = pixels(decoded(given[image]), width, height, number(geometry, "crop"));
    request.set_tensor("images", {ov::element::u8, {1, height, width, 3}, shown.data()});
    request.infer();
    const float* embedding = request.get_tensor("embedding").data<float>();
    double score = *request.get_tensor("ood_score").data<float>();
    double p = 1;
    for (double one : familiar) p += one >= score;
    p /= familiar.size() + 1;
    const char* verdict = p <= number(calibration, "alpha") ? "unfamiliar" : "familiar";
    std::printf("%s  p = %.4f  %s  [%.6f, %.6f, %.6f, %.6f] ...\n", given[image], p, verdict,
                embedding[0], embedding[1], embedding[2], embedding[3]);
  }
}
