/**
 * `/status` for a person: one verdict, what is wrong and its remedy, then the figures that are not zero. The server renders all of it;
 * the script fetches the page anew and changes what differs, so that there is one rendering, a selection stays, and a screen reader
 * hears the verdict when it changes. Everything in it is escaped by hono's template.
 */
import { html, raw } from "hono/html";
import { createHash } from "node:crypto";
import type { Millis } from "../core/model.ts";
import { homepage } from "../version.ts";
import type { FaultView, Status } from "./status.ts";
import { duration, judge } from "./verdict.ts";

type Html = ReturnType<typeof html>;

const style = `
:root { color-scheme: light dark; --ink: light-dark(#1b1f24, #e6e8ea); --soft: light-dark(#59636e, #9aa4ae);
  --line: light-dark(#d8dde2, #333a42); --paper: light-dark(#fff, #15181c); --card: light-dark(#f6f8fa, #1d2126);
  --good: light-dark(#116329, #56d364); --busy: light-dark(#7d4e00, #e3b341); --bad: light-dark(#a40e26, #ff7b72) }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main, #lost { max-width: 62rem; margin: 0 auto; padding: 1rem }
header, footer { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; color: var(--soft); font-size: .875rem }
a { color: inherit } h1 { font-size: 1rem; margin: 0; color: var(--ink) } h2 { font-size: 1rem; margin: 0 0 .25rem }
.verdict, .gone { font-size: 1.5rem; line-height: 1.3; font-weight: 700; margin: 1rem 0 0; overflow-wrap: anywhere } .times { margin: 0; color: var(--soft) }
.good { color: var(--good) } .busy { color: var(--busy) } .bad { color: var(--bad) }
.fault, .hint { border-left: 4px solid var(--bad); background: var(--card); padding: .75rem 1rem; margin: 1rem 0; overflow-wrap: anywhere }
.hint { border-color: var(--good) } .fault p { margin: 0 } .fault p + p { margin-top: .25rem; color: var(--soft) }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: .75rem; margin: 1rem 0 }
section { border: 1px solid var(--line); background: var(--card); border-radius: .5rem; padding: .75rem 1rem }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 1rem; margin: 0 }
dt { color: var(--soft) } dd { margin: 0; text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
#lost { display: none } .lost #lost { display: block } .lost .verdict { color: var(--soft) }
`;

const script = `
const everyMs = 2000;
const morph = (from, to) => {
  if (from.isEqualNode(to)) return;
  if (from.nodeName !== to.nodeName) return from.replaceWith(to);
  if (from.nodeType !== Node.ELEMENT_NODE) return void (from.data = to.data);
  for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
  for (const { name, value } of [...to.attributes]) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  const [old, fresh] = [[...from.childNodes], [...to.childNodes]];
  fresh.forEach((node, at) => (old[at] ? morph(old[at], node) : from.append(node)));
  old.slice(fresh.length).forEach((node) => node.remove());
};
const refresh = async () => {
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error();
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    morph(document.querySelector("main"), fresh.querySelector("main"));
    document.title = fresh.title;
    document.body.className = "";
  } catch {
    if (document.body.className !== "lost") document.querySelector("#since").textContent = new Date().toLocaleTimeString();
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
  const { mood, words, times, faults } = judge(status, now);
  const isNew = faults.length === 0 && status.inbox.answered + status.inbox.pending + status.sessions.total === 0;
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>signalman: ${words}</title>
        <link rel="icon" href="data:," />
        ${styleTag}
      </head>
      <body>
        <div id="lost" role="alert">
          <p class="gone">No answer from signalman since <span id="since"></span></p>
          <p>It has stopped, or this page cannot reach it. What follows is what it said last.</p>
        </div>
        <main>
          <header>
            <h1>signalman</h1>
            <span>${status.version}, up for ${duration(status.uptimeMs)}</span>
          </header>
          <p class="verdict ${mood}" role="status">${words}</p>
          <p class="times">${times}</p>
          <div>${faults.map(renderFault)} ${isNew && renderWelcome(status)}</div>
          <div class="cards">${Object.entries(cards(status, now)).map(renderCard)}</div>
          <footer>
            <span>${status.connection.state}</span>
            <a href="/status.json">JSON</a>
            <a href="/metrics">metrics</a>
            ${homepage !== null && html`<a href="${homepage}" rel="noreferrer">documents</a>`}
          </footer>
        </main>
        ${scriptTag}
      </body>
    </html>`;
}

type Facts = Readonly<Record<string, string | number | null>>;

/** The facts of each card; null and zero leave one out, and a card without any. */
function cards({ connection, signal, claude, sessions, inbox, outbox }: Status, now: Millis): Record<string, Facts> {
  const { checked, changed, pushed, failed } = sessions.lastSync;
  return {
    Signal: {
      Transport: signal.transport,
      Account: signal.account,
      "Last proof of life": ago(connection.lastProofAt, now),
      Received: ago(signal.lastReceivedAt, now),
      Sent: ago(signal.lastSentAt, now),

      Reconnects: connection.reconnects,
      "Failed attempts": connection.attempt,

      "Kept unread": signal.quarantined || null,
    },
    Claude: {
      Backend: claude.backend,
      Model: claude.model,
      API: claude.reachable === null ? "not asked yet" : claude.reachable ? "reachable" : "not reachable",
    },
    Conversations: {
      Kept: sessions.total,
      "Used today": sessions.active,
      "Waiting for sync": sessions.stale,
      "Last sync": ago(sessions.lastSyncAt, now),
      "Compared then": checked,
      "Changed here": changed,
      "Changed at Claude": pushed,
      "Could not be read": failed,
    },
    Questions: {
      Waiting: inbox.pending,
      Answered: inbox.answered,
      "From strangers, dropped": inbox.dropped,
      Failed: inbox.failed,
    },
    Answers: { Waiting: outbox.pending, Sent: outbox.sent, Repeated: outbox.uncertain, Failed: outbox.failed },
  };
}

function renderCard([title, facts]: [string, Facts]): Html | string {
  const shown = Object.entries(facts).filter(([, value]) => value !== null && value !== 0);
  if (shown.length === 0) return "";
  return html`<section>
    <h2>${title}</h2>
    <dl>
      ${shown.map(
        ([name, value]) =>
          html`<dt>${name}</dt>
            <dd>${value}</dd>`,
      )}
    </dl>
  </section> `;
}

const renderFault = ({ message, hint, code }: Omit<FaultView, "userAction">): Html =>
  html`<div class="fault" role="alert">
    <p>${message} <small>(${code})</small></p>
    <p>${hint.split("`").map((part, index) => (index % 2 === 0 ? part : html`<code>${part}</code>`))}</p>
  </div>`;

/** Before the first message there are no figures: what to do stands in their place. */
const renderWelcome = ({ signal }: Status): Html =>
  html`<p class="hint">
    Nothing was asked yet. Open Signal on your phone and write to
    ${signal.transport === "native" ? "Note to Self" : "the account of this signalman"}: Claude answers there.
  </p>`;

const ago = (time: string | null, now: Millis): string | null => time && `${duration(now - Date.parse(time))} ago`;
