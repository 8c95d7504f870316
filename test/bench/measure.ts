/** Figures with their spread, and how they are written down. */

export type Figure = {
  readonly name: string;
  /** Group in the table and the chart. */
  readonly group: string;
  readonly unit: "ms" | "MB" | "/s" | "requests" | "statements" | "commits";
  readonly values: readonly number[];
  /** What DESIGN and the issues ask for; less is better but for rates. */
  readonly target?: number | undefined;
};

/** The same step several times, each figure with all its values. */
export async function repeat(times: number, step: () => Promise<readonly Figure[]>): Promise<Figure[]> {
  const merged = new Map<string, Figure>();
  for (let run = 0; run < times; run++)
    for (const figure of await step()) {
      const key = `${figure.name} ${figure.unit}`;
      merged.set(key, { ...figure, values: [...(merged.get(key)?.values ?? []), ...figure.values] });
    }
  return [...merged.values()];
}

/** The value below which a share `at` (0 to 1) of the values lies, between neighbours where it falls there. */
export function quantile(values: readonly number[], at: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const place = (sorted.length - 1) * at;
  const low = sorted[Math.floor(place)] ?? Number.NaN;
  const high = sorted[Math.ceil(place)] ?? low;
  return low + (high - low) * (place - Math.floor(place));
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

const show = (value: number): string =>
  value >= 1000
    ? Math.round(value).toLocaleString("en-US")
    : value >= 100
      ? value.toFixed(0)
      : value.toFixed(value < 10 ? 2 : 1);

export const isMet = ({ unit, values, target }: Figure): boolean =>
  target === undefined || (unit === "/s" ? median(values) >= target : median(values) <= target);

/** One row per figure: median, the middle 80 %, how often it was measured, and the target with whether it is met. */
export function toTable(figures: readonly Figure[]): string {
  const rows = figures.map((figure) => {
    const { name, unit, values, target, group } = figure;
    const spread = values.length < 2 ? "" : `${show(quantile(values, 0.1))} – ${show(quantile(values, 0.9))}`;
    const bound = target === undefined ? "" : `${unit === "/s" ? "≥" : "≤"} ${show(target)}`;
    const verdict = target === undefined ? "" : isMet(figure) ? " ✓" : " ✗";
    return `| ${group} | ${name} | ${show(median(values))} ${unit} | ${spread} | ${values.length} | ${bound}${verdict} |`;
  });
  return ["| | what | median | 10 % – 90 % | runs | target |", "|---|---|---:|---:|---:|---:|", ...rows].join("\n");
}

/** Bars to the scale of each figure's target, the dashed line; with a legend, and which way is better for each. */
export function toChart(figures: readonly Figure[]): string {
  const rowHeight = 18;
  const left = 330;
  const width = 300;
  const shown = figures.filter(({ target }) => target !== undefined);
  const bars = shown.map((figure, row) => {
    const { group, name, unit, values, target = 1 } = figure;
    const ratioOf = (value: number): number => Math.max(0, Math.min(1.5, value / target));
    const x = (value: number): string => (left + (ratioOf(value) * width) / 1.5).toFixed(1);
    const y = 62 + row * rowHeight;
    const colour = isMet(figure) ? "#2f7d5b" : "#b3452f";
    const value = `${show(median(values))} ${unit} ${unit === "/s" ? "→" : "←"}`;
    return [
      `<text x="${left - 8}" y="${y + 11}" text-anchor="end">${group}: ${name}</text>`,
      `<rect x="${left}" y="${y + 2}" width="${(Number(x(median(values))) - left).toFixed(1)}" height="11" fill="${colour}"/>`,
      `<path d="M${x(quantile(values, 0.1))} ${y + 7.5}H${x(quantile(values, 0.9))}" stroke="#111" stroke-width="1"/>`,
      `<text x="${left + width + 8}" y="${y + 11}">${value}</text>`,
    ].join("");
  });
  const height = 76 + shown.length * rowHeight;
  const line = (left + width / 1.5).toFixed(1);
  const legend = [
    `<rect x="-140" y="9" width="22" height="11" fill="#2f7d5b"/><text x="-112" y="18">median, target met</text>`,
    `<rect x="20" y="9" width="22" height="11" fill="#b3452f"/><text x="48" y="18">median, target missed</text>`,
    `<path d="M190 14.5H212" stroke="#111" stroke-width="1"/><text x="218" y="18">the middle 80 % of the runs</text>`,
    `<text x="400" y="18">← less is better</text><text x="500" y="18">→ more is better</text>`,
  ];
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-150 0 870 ${height}" font-family="system-ui,sans-serif" font-size="11">`,
    `<rect x="-150" width="870" height="${height}" fill="#fff"/><text x="${line}" y="50" text-anchor="middle">target</text>`,
    ...legend,
    `<path d="M${line} 56V${height - 10}" stroke="#888" stroke-dasharray="3 3"/>`,
    ...bars,
    "</svg>\n",
  ].join("\n");
}
