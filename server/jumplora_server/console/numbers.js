// Numbers as people read them.

/** 0.123 -> "12.3 %" */
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

/** 0.042 -> "+4.2", with a minus sign that is as wide as the plus. */
export function points(difference, digits = 1) {
  const text = Math.abs(100 * difference).toFixed(digits);
  if (Number(text) === 0) return text;
  return (difference < 0 ? "−" : "+") + text;
}

/** Seconds -> "0.4 ms", "41 ms", "12.5 s" */
export function duration(seconds) {
  const milliseconds = 1000 * seconds;
  if (milliseconds >= 9999.5) return `${seconds.toFixed(1)} s`;
  return `${milliseconds.toFixed(milliseconds < 9.95 ? 1 : 0)} ms`;
}

/** A natural log-probability -> "−0.123" */
export const logarithm = (logprob) => logprob.toFixed(3).replace("-", "−");

/** count(1, "token") -> "1 token", count(1200, "token") -> "1,200 tokens" */
export const count = (number, noun) =>
  `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
