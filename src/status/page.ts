/**
 * `/status` for a person: one page, the same facts as the JSON. The server renders all of it; the script only fetches the
 * page anew and swaps its main part, so that there is one rendering, and everything in it is escaped by hono's template.
 */
import { html, raw } from "hono/html";
import { createHash } from "node:crypto";
import type { Millis } from "../core/model.ts";
import type { FaultView, Status } from "./status.ts";

type Html = ReturnType<typeof html>;

const style = `
:root { color-scheme: light dark; --ink: light-dark(#1b1f24, #e6e8ea); --soft: light-dark(#59636e, #9aa4ae);
  --line: light-dark(#d8dde2, #333a42); --paper: light-dark(#fff, #15181c); --card: light-dark(#f6f8fa, #1d2126);
  --good: light-dark(#116329, #56d364); --busy: light-dark(#7d4e00, #e3b341); --bad: light-dark(#a40e26, #ff7b72); }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 62rem; margin: 0 auto; padding: 1rem }
header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; margin-bottom: 1rem }
h1 { font-size: 1.25rem; margin: 0 } h2 { font-size: 1rem; margin: 0 0 .25rem }
header span { color: var(--soft); font-size: .875rem }
.state { font-size: 1.5rem; font-weight: 700; margin: 0 } .state small { white-space: nowrap; font-weight: 400; font-size: 1rem; color: var(--soft) }
.good { color: var(--good) } .busy { color: var(--busy) } .bad { color: var(--bad) }
.fault { border-left: 4px solid var(--bad); background: var(--card); padding: .75rem 1rem; margin: 1rem 0; overflow-wrap: anywhere }
.fault p { margin: 0 } .fault p + p { margin-top: .25rem; color: var(--soft) }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: .75rem; margin-top: 1rem }
section { border: 1px solid var(--line); background: var(--card); border-radius: .5rem; padding: .75rem 1rem }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 1rem; margin: 0 }
dt { color: var(--soft) } dd { margin: 0; text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
#lost { display: none } .lost #lost { display: block } .lost main > :not(#lost, header) { opacity: .4 }
`;

const script = `
const everyMs = 2000;
const refresh = async () => {
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, signal: AbortSignal.timeout(5000) });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
    document.title = fresh.title;
    document.body.className = "";
  } catch {
    document.body.className = "lost";
    document.title = "signalman: no answer";
  }
  setTimeout(refresh, everyMs);
};
setTimeout(refresh, everyMs);
`;

/** Whole elements, as their text must equal the hashed one to the byte. */
const [styleTag, scriptTag] = [raw(`<style>${style}</style>`), raw(`<script>${script}</script>`)];
const hashOf = (text: string): string => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** Nothing but this page's own style and script, and fetches to this server. */
export const contentSecurityPolicy = [
  "default-src 'none'",
  `style-src ${hashOf(style)}`,
  `script-src ${hashOf(script)}`,
  "connect-src 'self'",
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** The whole page; `now` in Unix ms, for "so long ago". */
export function renderPage(status: Status, now: Millis): Html {
  const { connection, claude, outbox } = status;
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>signalman: ${connection.state}</title>
        <link rel="icon" href="data:," />
        ${styleTag}
      </head>
      <body>
        <main>
          <header>
            <h1>signalman</h1>
            <span>${status.version} · up ${duration(status.uptimeMs)}</span>
          </header>
          <div class="fault" id="lost" role="alert">
            <p>No answer from signalman.</p>
            <p>This is what it said last.</p>
          </div>
          <p class="state ${mood[connection.state]}" role="status">
            ${connection.state} <small>for ${duration(now - Date.parse(connection.since))}</small>
          </p>
          ${connection.fault && renderFault(connection.fault)} ${claude.lastError && renderFault(claude.lastError)}
          ${outbox.fault && renderFault(outbox.fault)}
          <div class="cards">${Object.entries(cards(status, now)).map(renderCard)}</div>
        </main>
        ${scriptTag}
      </body>
    </html>`;
}

const mood: Record<Status["connection"]["state"], string> = {
  CONNECTED: "good",
  SYNCING: "busy",
  RECONNECTING: "busy",
  DISCONNECTED: "bad",
};

type Facts = Readonly<Record<string, string | number | null>>;

/** The facts of each card; null leaves one out. */
function cards({ connection, signal, claude, sessions, inbox, outbox }: Status, now: Millis): Record<string, Facts> {
  const { checked, changed, pushed, failed } = sessions.lastSync;
  return {
    Signal: {
      Transport: signal.transport,
      Account: signal.account,
      "Last proof of life": ago(connection.lastProofAt, now),
      Reconnects: connection.reconnects,
      "Failed attempts": connection.attempt,
      "Next attempt in": connection.retryAt && duration(Date.parse(connection.retryAt) - now),
      Received: ago(signal.lastReceivedAt, now),
      Sent: ago(signal.lastSentAt, now),
    },
    Claude: {
      Backend: claude.backend,
      Model: claude.model,
      API: claude.reachable === null ? "not asked yet" : claude.reachable ? "reachable" : "not reachable",
    },
    Sessions: {
      Total: sessions.total,
      "Used today": sessions.active,
      "Waiting for sync": sessions.stale,
      "Last sync": ago(sessions.lastSyncAt, now),
      Checked: checked,
      "Changed here": changed,
      "Pushed to Claude": pushed,
      Failed: failed,
    },
    Inbox: {
      Waiting: inbox.pending,
      Oldest: inbox.oldestMs === null ? null : duration(inbox.oldestMs),
      Answered: inbox.answered,
      Dropped: inbox.dropped,
      Failed: inbox.failed,
    },
    Outbox: {
      Waiting: outbox.pending,
      Oldest: outbox.oldestMs === null ? null : duration(outbox.oldestMs),
      Sent: outbox.sent,
      Repeated: outbox.uncertain,
      Failed: outbox.failed,
    },
  };
}

const renderCard = ([title, facts]: [string, Facts]): Html =>
  html`<section>
    <h2>${title}</h2>
    <dl>
      ${Object.entries(facts).map(
        ([name, value]) =>
          value !== null &&
          html`<dt>${name}</dt>
            <dd>${value}</dd>`,
      )}
    </dl>
  </section> `;

const renderFault = ({ message, hint, code }: Omit<FaultView, "userAction">): Html =>
  html`<div class="fault" role="alert">
    <p>${message} <small>(${code})</small></p>
    <p>${hint.split("`").map((part, index) => (index % 2 === 0 ? part : html`<code>${part}</code>`))}</p>
  </div>`;

const units: readonly (readonly [name: string, ms: Millis])[] = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1_000],
];

/** The two largest units: `1 h 5 min`. */
function duration(ms: Millis): string {
  let rest = Math.max(0, ms);
  const counts = units.map(([name, unitMs]) => {
    const count = Math.floor(rest / unitMs);
    rest -= count * unitMs;
    return { name, count };
  });
  const first = counts.findIndex(({ count }) => count > 0);
  const shown = first < 0 ? [] : counts.slice(first, first + 2).filter(({ count }) => count > 0);
  return shown.map(({ name, count }) => `${count} ${name}`).join(" ") || "0 s";
}

const ago = (time: string | null, now: Millis): string | null => time && `${duration(now - Date.parse(time))} ago`;
