/** Chance that can be repeated: the same numbers for the same seed (mulberry32). */

export function chance(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    /** A whole number from 0 to below `limit`. */
    below: (limit) => Math.floor(next() * limit),
    /** True once in `times`, on average. */
    one: (times) => next() * times < 1,
    of: (list) => list[Math.floor(next() * list.length)],
  };
}
