// Numbers read here as in the other formats (leaderboards/text.py); null is a dash, never 0.
const NONE = "—";

const known = (value) => value !== null && value !== undefined;

const number = (value) => {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  return value.toFixed(size < 10 ? 3 : size < 1000 ? 1 : 0);
};

const signed = (value) => (known(value) && value > 0 ? "+" : "") + number(value).replace("-", "−");

const duration = (seconds) => {
  if (!known(seconds)) return NONE;
  if (seconds < 119.95) return `${seconds.toFixed(1)} s`;
  const minutes = seconds / 60;
  return minutes < 119.95 ? `${minutes.toFixed(1)} min` : `${(minutes / 60).toFixed(1)} h`;
};

const count = (value) => {
  if (!known(value)) return NONE;
  for (const [size, prefix] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (value >= size) return `${(value / size).toFixed(1)} ${prefix}`;
  }
  return value.toFixed(0);
};

const rate = (value) => (!known(value) ? NONE : value < 1000 ? String(Number(value.toPrecision(3))) : value.toFixed(0));

const gib = (mib) => (known(mib) ? (mib / 1024).toFixed(2) : NONE);

const percent = (fraction) => `${Number((100 * fraction).toPrecision(4))} %`;

const range = (low, high) => (known(low) && known(high) ? `[${number(low)}, ${number(high)}]` : NONE);

const plural = (amount, one, many) => `${amount.toLocaleString("en")} ${amount === 1 ? one : many || `${one}s`}`;

const scoreText = (entry) => (entry.status !== "ok" ? entry.status : !known(entry.value) ? "undefined" : number(entry.value));

const arrow = (group) => (group.metric ? `${group.metric} ${group.higher ? "↑" : "↓"}` : "score");

const rankText = (rank) => {
  if (!rank || !known(rank.rank)) return NONE;
  return rank.low === rank.high ? String(rank.low) : `${rank.low}–${rank.high}`;
};

const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

const sum = (values) => values.reduce((total, value) => total + value, 0);
