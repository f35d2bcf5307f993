// Numbers and decisions in words.

/** A score or p-value with two or three digits; NaN comes as null in JSON. */
export const short = (value) =>
  value === null ? "not a number" : String(Number(value.toPrecision(value < 0.1 ? 2 : 3)));

/** A whole number with separators. */
export const whole = (value) => value.toLocaleString("en");

/** Bytes in kB or MB. */
export const bytes = (value) =>
  value < 2 ** 20 ? `${Math.round(value / 2 ** 10)} kB` : `${Math.round(value / 2 ** 20)} MB`;

/**
 * The verdict in a sentence. `p_value` is (1 + images that score as high) / (images + 1).
 */
export function verdict(ood, calibration) {
  const { images, alpha } = calibration;
  const p = ood.p_value;
  if (ood.is_ood) {
    const above = Math.round(p * (images + 1)) - 1;
    const seen =
      above === 0
        ? `None of the ${whole(images)} familiar images it was calibrated on looks this unusual.`
        : `Only ${whole(above)} of the ${whole(images)} familiar images it was calibrated on ` +
          `${above === 1 ? "looks" : "look"} at least this unusual.`;
    return `${seen} Flagged, because p = ${short(p)} is at most α = ${short(alpha)}.`;
  }
  if (p >= 0.995) return "Nearly every familiar image looks at least this unusual.";
  const of = [100, 1000, 10000].find((many) => many * p >= 1) ?? 100000;
  return `Of ${whole(of)} familiar images, about ${Math.round(of * p)} look at least this unusual.`;
}
