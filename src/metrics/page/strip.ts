/** The residency strip: how full each of its cells is drawn. The browser uses this as well. */

/** The opacity of a cell. What is resident at all can be seen: the faintest is far from none. */
export function cellOpacity(share: number): string {
  return share === 0 ? '0' : (0.2 + 0.8 * share).toFixed(2);
}
