/** The page in a real browser. Skipped, aloud, where none is installed. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { chromium, type Browser, type Page } from "playwright-core";
import { createApp } from "../../src/status/app.ts";
import { listen, type Server } from "../../src/status/listen.ts";
import type { Status } from "../../src/status/status.ts";
import { playedDaemon } from "../doubles/status-server.ts";
import { connected, disconnected } from "./example.ts";

const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
const launchArguments = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
/** Longer than the page's own interval. */
const intervalMs = 2_500;

describe.skipIf(executablePath === undefined)("the status page in Chromium", () => {
  let browser: Browser;
  let server: Server;
  let status: Status = connected;

  beforeAll(async () => {
    const app = createApp({ ...playedDaemon(), status: () => status });
    server = await listen({ host: "127.0.0.1", port: 0 }, app.fetch);
    browser = await chromium.launch({ executablePath: executablePath ?? "", args: launchArguments });
  });
  afterAll(async () => {
    await browser.close();
    await server.stop();
  });

  const open = async (width: number): Promise<{ page: Page; faults: string[] }> => {
    const page = await browser.newPage({ viewport: { width, height: 800 } });
    const faults: string[] = [];
    page.on("console", (message) => {
      if (message.type() === "error") faults.push(message.text());
    });
    page.on("pageerror", (error) => void faults.push(error.message));
    page.on("dialog", (dialog) => void (faults.push("dialog"), dialog.dismiss()));
    page.on("request", (request) => {
      if (new URL(request.url()).origin !== server.url) faults.push(request.url());
    });
    await page.clock.install();
    await page.goto(`${server.url}/`);
    return { page, faults };
  };

  const overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";

  test.each([320, 360, 1200])("says first how it stands, and fits a screen of %p px, light and dark", async (width) => {
    for (const colorScheme of ["light", "dark"] as const) {
      status = connected;
      const { page, faults } = await open(width);
      await page.emulateMedia({ colorScheme });
      expect(await page.locator(".verdict.good").innerText()).toBe(
        "Signal is connected: 1 message waits for an answer, 2 messages wait to be sent",
      );
      expect(await page.locator(".times").innerText()).toBe("for 1 h 5 min; the oldest waits for 1 min 1 s");
      expect(await page.locator("section").count()).toBe(5);
      expect(await page.locator("dd").allInnerTexts()).toEqual(expect.arrayContaining(["$0.12", "$0.25", "4.5 s"]));
      expect(await page.evaluate<number>(overflow)).toBe(0);
      status = disconnected;
      await page.reload();
      expect(await page.locator(".verdict.bad").innerText()).toStartWith(
        "Signal is not connected; Claude cannot be reached: 1 message waits",
      );
      expect(await page.evaluate<number>(overflow)).toBe(0);
      expect(faults).toEqual([]);
      await page.close();
    }
  });

  test("shows nothing that is zero, and says what to do where nothing was asked yet", async () => {
    const { sessions, inbox, outbox } = connected;
    status = {
      ...connected,
      sessions: { ...sessions, total: 0, active: 0, stale: 0 },
      inbox: { ...inbox, pending: 0, oldestMs: null, answered: 0, dropped: 0, failed: 0 },
      outbox: { ...outbox, pending: 0, oldestMs: null, sent: 0, uncertain: 0 },
    };
    const { page } = await open(360);
    expect(await page.locator(".hint").innerText()).toContain("Note to Self");
    expect(await page.locator("dd").allInnerTexts()).not.toContain("0");
    expect(await page.locator("h2").allInnerTexts()).toEqual(["Signal", "Claude", "Conversations"]);
    await page.getByRole("link", { name: "JSON" }).click();
    expect(JSON.parse(await page.locator("body").innerText())).toMatchObject({ connection: { state: "CONNECTED" } });
    await page.close();
  });

  test("follows the status in place: a selection stays, nothing that the status says runs, a lost daemon is told and comes back", async () => {
    status = connected;
    const { page, faults } = await open(320);
    expect(await page.title()).toStartWith("signalman: Signal is connected");
    await page.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))");
    await page.evaluate("document.querySelector('section').isOurs = true");
    status = disconnected;
    await page.clock.runFor(intervalMs);
    await page.locator(".verdict.bad[role=status]").waitFor();
    expect(await page.title()).toStartWith("signalman: Signal is not connected");
    expect(await page.locator(".fault:visible").first().innerText()).toContain("<script>alert(1)</script>");
    expect(await page.evaluate<string>("getSelection().toString()")).toBe("signalman");
    expect(await page.evaluate<boolean>("document.querySelector('section').isOurs")).toBe(true);
    expect(faults).toEqual([]);
    await page.route("**/status", (route) => route.abort());
    await page.clock.runFor(intervalMs);
    await page.locator("#lost").waitFor({ state: "visible" });
    expect(await page.locator("#since").innerText()).toMatch(/\d:\d\d/u);
    await page.unroute("**/status");
    status = connected;
    await page.clock.runFor(intervalMs);
    await page.locator(".verdict.good").waitFor();
    expect(await page.locator("#lost").isVisible()).toBe(false);
    await page.close();
  });
});

if (executablePath === undefined) console.warn("SKIPPED: no Chromium here, the status page was not tried in a browser");
