// Numbers, times and names as people read them. No DOM: tests run these with node.

export const NONE = "–"; // what stands where nothing is known

const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB"];

/** 1536 -> "1.54 kB". Steps of 1000, as the command line has them. */
export function bytes(count) {
  if (count === null || count === undefined) return NONE;
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : short(value)} ${BYTE_UNITS[unit]}`;
}

/** Three digits of a number that is not negative: 0.123, 4.56, 78.9, 1234. */
export function short(value) {
  if (value >= 99.95) return String(Math.round(value));
  if (value >= 9.995) return trimmed(value.toFixed(1));
  if (value >= 0.9995 || value === 0) return trimmed(value.toFixed(2));
  return trimmed(value.toPrecision(2));
}

function trimmed(digits) {
  return /e/.test(digits) || !digits.includes(".") ? digits : digits.replace(/\.?0+$/, "");
}

/** 0.0123 -> "12.3 ms", 1.5 -> "1.5 s", 90 -> "1.5 min". */
export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 0.9995) return `${short(value * 1000)} ms`;
  return value < 60 ? `${short(value)} s` : `${short(value / 60)} min`;
}

/** A share from 0 to 1: 0.165 -> "16.5 %". */
export function percent(share, digits = 1) {
  if (share === null || share === undefined) return NONE;
  const text = (share * 100).toFixed(digits);
  const isFew = share > 0 && Number(text) === 0;
  return isFew ? `<${(10 ** -digits).toFixed(digits)} %` : `${text} %`;
}

/** Seconds as two digits have them: 0.0123 -> "12 ms". */
export function roughSeconds(value) {
  return seconds(value && Number(value.toPrecision(2)));
}

/** Requests a second, of which 0 is a number as well. */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  return value > 0 && value < 0.01 ? "<0.01" : short(value);
}

/** 93784 -> "1 d 2 h"; the two largest units. */
export function duration(value) {
  const units = [
    ["d", 86400],
    ["h", 3600],
    ["min", 60],
    ["s", 1],
  ];
  const first = units.findIndex(([, size]) => value >= size);
  if (first < 0) return "0 s";
  const [name, size] = units[first];
  const most = `${Math.floor(value / size)} ${name}`;
  const next = units[first + 1];
  const rest = next ? Math.floor((value % size) / next[1]) : 0;
  return rest ? `${most} ${rest} ${next[0]}` : most;
}

/** The eight digits by which people know a version; "" where there is none. */
export function digits(version) {
  return version ? version.slice(0, 8) : "";
}

/** A time as "09:15:02" of today and "2026-11-28 09:15" of another day, where the reader lives;
 *  other texts as they are. */
export function when(text, now = Date.now()) {
  const time = new Date(text);
  if (!text || Number.isNaN(time.getTime())) return text || NONE;
  const two = (number) => String(number).padStart(2, "0");
  const minute = `${two(time.getHours())}:${two(time.getMinutes())}`;
  if (time.toDateString() === new Date(now).toDateString()) {
    return `${minute}:${two(time.getSeconds())}`;
  }
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${minute}`;
}

/** "test_exact_match" -> "test exact match". */
export function words(name) {
  return name.replaceAll("_", " ");
}

const grouped = new Intl.NumberFormat("en"); // made once: toLocaleString makes one at each call

/** 12345 -> "12,345". */
export function whole(count) {
  return grouped.format(count);
}

/** A count with its noun: counted(2, "task") -> "2 tasks". */
export function counted(count, noun, plural = `${noun}s`) {
  return `${whole(count)} ${count === 1 ? noun : plural}`;
}

/** "decoder.block.0.layer.1.EncDecAttention.q" -> "decoder 0 · EncDecAttention.q". */
export function moduleName(name) {
  const match = /^(\w+)\.block\.(\d+)\.layer\.\d+\.(.+)$/.exec(name);
  return match ? `${match[1]} ${match[2]} · ${match[3]}` : name;
}

/** A difference of shares in points: 0.042 -> "+4.2", -0.042 -> "−4.2". */
export function points(difference) {
  const text = Math.abs(100 * difference).toFixed(1);
  if (Number(text) === 0) return text;
  return (difference < 0 ? "−" : "+") + text;
}

/** A natural logarithm, with a true minus sign: -0.1234 -> "−0.123", and -0.0001 -> "0.000". */
export function logarithm(value) {
  const text = value.toFixed(3);
  return Number(text) === 0 ? "0.000" : text.replace("-", "−");
}
