// A colour for each first token. Tokens that are close on the map get hues that are far apart.
const GOLDEN = 137.508;

export function tokenColours(tokens, dark) {
  const at = (token) => (token.centre ? token.centre[1] * 3 + token.centre[0] : 0);
  const ordered = [...tokens].sort((one, other) => at(one) - at(other) || one.code - other.code);
  const lightness = dark ? [0.72, 0.8] : [0.58, 0.66];
  return new Map(ordered.map((token, place) => [token.code, oklch(lightness[place % 2], 0.125, (place * GOLDEN) % 360)]));
}

export const NO_TOKEN = "rgb(128 128 128)";

// Perceptual lightness, chroma and hue in degrees to sRGB (Ottosson 2020).
function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return `rgb(${linear.map(encoded).join(" ")})`;
}

function encoded(value) {
  const bounded = Math.min(1, Math.max(0, value));
  return Math.round(255 * (bounded <= 0.0031308 ? 12.92 * bounded : 1.055 * bounded ** (1 / 2.4) - 0.055));
}
