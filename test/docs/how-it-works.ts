/** The pictures of docs/how-it-works.md, drawn from the reducer itself. `bun test/docs/how-it-works.ts` writes them; a test compares. */
import { readFileSync, writeFileSync } from "node:fs";
import { defaultLimits, initialState, step, type State, type StateName } from "../../src/core/connection.ts";
import { isEqual, synchronize } from "../../src/core/synchronizer.ts";
import { events, fault, t0 } from "../core/connection-cases.ts";

export const pageUrl = new URL("../../docs/how-it-works.md", import.meta.url);

/** Later than anything that is due in the samples. */
const late = t0 + 3_600_000;
const common = { since: t0, attempt: 1, lastProofAt: t0, reconnects: 1 };
const due = { proofDueAt: t0 + 1 };
const notDue = { proofDueAt: late + 3_600_000 };
const samples: Readonly<Record<StateName, readonly State[]>> = {
  DISCONNECTED: [
    initialState(t0),
    { ...common, name: "DISCONNECTED", fault: fault("signal_unreachable"), retryAt: t0 + 1 },
    { ...common, name: "DISCONNECTED", fault: fault("unlinked"), retryAt: null },
  ],
  RECONNECTING: [{ ...common, name: "RECONNECTING" }],
  SYNCING: [
    { ...common, ...due, name: "SYNCING", isProven: false, isSynced: false },
    { ...common, ...due, name: "SYNCING", isProven: true, isSynced: false },
    { ...common, ...due, name: "SYNCING", isProven: false, isSynced: true },
    { ...common, ...notDue, name: "SYNCING", isProven: false, isSynced: false },
  ],
  CONNECTED: [
    { ...common, ...due, name: "CONNECTED" },
    { ...common, ...notDue, name: "CONNECTED" },
  ],
};
const names = Object.keys(samples) as StateName[];
const types = Object.keys(events) as (keyof typeof events)[];

/** Where an event can lead from a state, whatever else is so. */
function goals(
  from: StateName,
  type: keyof typeof events,
): { readonly next: Set<StateName>; readonly effects: Set<string> } {
  const next = new Set<StateName>();
  const effects = new Set<string>();
  for (const sample of samples[from]) {
    const [state, done] = step(sample, { ...events[type], at: late }, defaultLimits);
    if (state !== sample) next.add(state.name);
    for (const { type: effect } of done) effects.add(effect);
  }
  return { next, effects };
}

function diagram(): string {
  const arrows = names.flatMap((from) =>
    names
      .filter((to) => to !== from)
      .map((to) => ({ from, to, by: types.filter((type) => goals(from, type).next.has(to)) }))
      .filter(({ by }) => by.length > 0),
  );
  const lines = arrows.map(({ from, to, by }) => `    ${from} --> ${to}: ${by.join(", ")}`);
  return ["```mermaid", "stateDiagram-v2", "    [*] --> DISCONNECTED", ...lines, "```"].join("\n");
}

function transitions(): string {
  const cell = (from: StateName, type: keyof typeof events): string => {
    const { next, effects } = goals(from, type);
    const others = [...next].filter((name) => name !== from);
    const shown = [...others, ...[...effects].filter((effect) => effect !== "publish").map((effect) => `*${effect}*`)];
    return shown.length > 0 ? shown.join(" ") : next.size > 0 ? "·" : "";
  };
  return [
    `| event | ${names.join(" | ")} |`,
    `|---|${names.map(() => "---|").join("")}`,
    ...types.map((type) => `| \`${type}\` | ${names.map((from) => cell(from, type)).join(" | ")} |`),
  ].join("\n");
}

/** Who wins a key, asked of the synchronizer for each combination. */
function winners(): string {
  const stamp = (at: string): string => `${at}-0000-aaaa`;
  const [early, later] = [stamp("0000000000001"), stamp("0000000000002")];
  const rows: [here: string | undefined, there: string | undefined, text: string][] = [
    [undefined, undefined, "neither side has a stamp"],
    [later, early, "here is newer"],
    [early, later, "there is newer"],
    [early, early, "the stamps are equal"],
    [later, undefined, "only here has one"],
    [undefined, later, "only there has one"],
  ];
  const stampsOf = (value: string | undefined): Record<string, string> => (value === undefined ? {} : { key: value });
  return [
    "| the key's stamp | the value kept | written to the other side |",
    "|---|---|---|",
    ...rows.map(([here, there, text]) => {
      const result = synchronize({ key: "here" }, { key: "there" }, { local: stampsOf(here), remote: stampsOf(there) });
      const written =
        Object.keys(result.push).length > 0 ? "to Claude" : result.changed ? "to this machine" : "nowhere";
      return `| ${text} | ${isEqual(result.merged["key"] ?? null, "here") ? "here" : "there"} | ${written} |`;
    }),
  ].join("\n");
}

const parts: Readonly<Record<string, () => string>> = { diagram, transitions, winners };

export const rendered = (page: string): string =>
  Object.entries(parts).reduce(
    (text, [name, make]) =>
      text.replace(
        new RegExp(`(<!-- ${name} -->\n)[\\s\\S]*?(<!-- /${name} -->)`, "u"),
        (_, open: string, close: string) => `${open}${make()}\n${close}`,
      ),
    page,
  );

if (import.meta.main) writeFileSync(pageUrl, rendered(readFileSync(pageUrl, "utf8")));
