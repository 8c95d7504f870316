/**
 * `/status` for a person: one verdict, the faults with their remedies, then the figures that are not zero. The server renders all of it;
 * the script fetches the page anew and changes what differs, so that there is one rendering, a selection stays, and a screen reader
 * hears the verdict when it changes. hono's template escapes every value.
 */
import { html, raw } from "hono/html";
import { createHash } from "node:crypto";
import type { Millis } from "../core/model.ts";
import { duration } from "../core/when.ts";
import script from "./page-script.txt" with { type: "text" };
import style from "./page.css" with { type: "text" };
import { homepage } from "../version.ts";
import type { FaultView, Status } from "./status.ts";
import { cardsOf, judgeStatus, type Card } from "./verdict.ts";

type Html = ReturnType<typeof html>;

/** Raw elements, since their text must equal the hashed one to the byte. */
const [styleTag, scriptTag] = [raw(`<style>${style}</style>`), raw(`<script>${script}</script>`)];
const hashOf = (text: string): string => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** Allows only this page's own style and script, and fetches to this server. */
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

/** Renders the whole page; `now` in Unix ms, for "so long ago". */
export function renderPage(status: Status, now: Millis): Html {
  const { mood, words, times, faults } = judgeStatus(status, now);
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
          <div class="cards">${cardsOf(status, now).map(renderCard)}</div>
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

const renderCard = ({ title, facts }: Card): Html =>
  html`<section>
    <h2>${title}</h2>
    <dl>
      ${facts.map(
        ([name, value]) =>
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

/** The advice that stands in place of figures before the first message. */
const renderWelcome = ({ signal }: Status): Html =>
  html`<p class="hint">
    Nothing was asked yet. Open Signal on your phone and write to
    ${signal.transport === "native" ? "Note to Self" : "the account of this signalman"}: Claude answers there.
  </p>`;
