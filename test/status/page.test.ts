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
    page.on("console", (message) => void (message.type() === "error" && faults.push(message.text())));
    page.on("pageerror", (error) => void faults.push(error.message));
    page.on("dialog", (dialog) => void (faults.push("dialog"), dialog.dismiss()));
    page.on("request", (request) => void (new URL(request.url()).origin === server.url || faults.push(request.url())));
    await page.clock.install();
    await page.goto(`${server.url}/`);
    return { page, faults };
  };

  test.each([320, 1200])("shows the state and fits a screen of %p px", async (width) => {
    status = connected;
    const { page, faults } = await open(width);
    expect(await page.locator(".state").innerText()).toContain("CONNECTED");
    expect(await page.locator("section").count()).toBe(5);
    const overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    expect(await page.evaluate<number>(overflow)).toBe(0);
    status = disconnected;
    await page.reload();
    expect(await page.evaluate<number>(overflow)).toBe(0);
    expect(faults).toEqual([]);
    await page.close();
  });

  test("follows the status by itself, runs nothing that the status says, and tells when nobody answers", async () => {
    status = connected;
    const { page, faults } = await open(320);
    expect(await page.title()).toBe("signalman: CONNECTED");
    status = disconnected;
    await page.clock.runFor(intervalMs);
    await page.locator(".state.bad").waitFor();
    expect(await page.title()).toBe("signalman: DISCONNECTED");
    expect(await page.locator(".fault:visible").first().innerText()).toContain("<script>alert(1)</script>");
    expect(faults).toEqual([]);
    await page.route("**/status", (route) => route.abort());
    await page.clock.runFor(intervalMs);
    await page.locator("#lost").waitFor({ state: "visible" });
    await page.unroute("**/status");
    status = connected;
    await page.clock.runFor(intervalMs);
    await page.locator(".state.good").waitFor();
    expect(await page.locator("#lost").isVisible()).toBe(false);
    await page.close();
  });
});

if (executablePath === undefined) console.warn("SKIPPED: no Chromium here, the status page was not tried in a browser");
