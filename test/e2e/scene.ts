/**
 * A scene: the compiled program linked to the owner's phone on Signal's mock server, with a strict double of the Claude API
 * behind it; and what the phones decrypt, written down as a transcript. Nothing here waits for a time, only for what is seen.
 */
import type { Group } from "@signalapp/mock-server";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { groupIdOf } from "../../src/signal/native/ids.ts";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { createPhone, type Letter, type Phone, type Place } from "../doubles/phone.ts";
import { startSignalMock } from "../doubles/signal-mock.ts";
import { startProxy } from "../native/proxy.ts";
import { link, newHome, start, type Running } from "./harness.ts";
import { createPage, timer, type Said, type Who } from "./page.ts";

export type WriteOptions = Letter & {
  readonly place?: Place;
  /** Written so many minutes ago. */
  readonly minutesAgo?: number;
};

type Env = Readonly<Record<string, string>>;

export interface Scene extends AsyncDisposable {
  readonly claude: ClaudeDouble;
  readonly program: Running;
  /** Anna, Ben and the owner; listed. */
  readonly friends: Group;
  /** Not listed. */
  readonly strangers: Group;
  write(who: Who, text: string, options?: WriteOptions): Said;
  edit(said: Said, text: string): Said;
  remove(said: Said): void;
  /** To the last message of Claude's, or the one that has this text. */
  react(who: Who, emoji: string, place?: Place, text?: string): void;
  /** The group as it is then. */
  setGroupTimer(seconds: number): Promise<Group>;
  /** A line about what is not seen on the phone. */
  note(text: string): void;
  /** The next thing from Claude's side, not asked for before, whose line has this text. */
  shows(text: string): Promise<void>;
  /** A message of Claude's, to be quoted. */
  last(text: string): { readonly sentAt: number; readonly text: string };
  /** Claude is typing, in that person's chat or in the group. */
  typing(place?: Place): Promise<void>;
  /** Nothing waits in the program: what the phone has seen is also written down. */
  idle(): Promise<void>;
  /** Nothing waits to be sent: what the phone has seen, the program knows to be there. */
  sent(): Promise<void>;
  /** Where the program itself goes by the time. */
  pass(seconds: number): Promise<void>;
  /** The message has got its last reaction, and nothing is under way any more. */
  answered(said: Said): Promise<void>;
  /** The person sees that it was read. */
  read(said: Said): Promise<void>;
  /** Ends the program and starts it again on the same home. */
  restart(env?: Env): Promise<void>;
  /** The line to Signal; resolves when the program knows. */
  cut(): Promise<void>;
  mend(): Promise<void>;
  transcript(): string;
}

/** @param config what config.toml says */
export async function openScene(env: Env = {}, config = ""): Promise<Scene> {
  const claude = await startClaudeDouble();
  const proxy = await startProxy();
  const mock = await startSignalMock({ names: ["Anna", "Ben"], chatPort: proxy.port });
  proxy.pointTo(mock.port);
  const [anna = mock.contact, ben = mock.contact] = mock.contacts;
  const members = [mock.phone, anna, ben];
  const friends = await mock.phone.createGroup({ title: "Friends", members });
  const strangers = await mock.phone.createGroup({ title: "Others", members });
  const home = newHome();
  writeFileSync(join(home.path, "config.toml"), config, { mode: 0o600 });
  const settings: Env = {
    SIGNALMAN_HOME: home.path,
    SIGNALMAN_SIGNAL_SERVICE: await mock.writeService(join(home.path, "service.json")),
    SIGNALMAN_ALLOW: `self,${anna.device.aci},group:${groupIdOf(friends.masterKey)}`,
    SIGNALMAN_REACTIONS: "on",
    SIGNALMAN_PROGRESS: "true",
    ANTHROPIC_API_KEY: claude.apiKey,
    ANTHROPIC_BASE_URL: claude.url,
    ...env,
  };
  const device = await link(settings, mock.scan);
  const page = createPage(() => program.output());
  const groups = [friends, strangers];
  const phone = (name: Who, who = mock.phone): Phone =>
    createPhone(mock, who, device, groups, (seen) => page.see(name, seen));
  const phones: Record<Who, Phone> = { me: phone("me"), Anna: phone("Anna", anna), Ben: phone("Ben", ben) };
  let program = await start(settings);
  await program.state("CONNECTED");
  await phones.me.sendSettings();

  let lastAt = 0;
  const stamp = (minutesAgo = 0): number => (lastAt = Math.max(lastAt + 1, Date.now() - minutesAgo * 60_000));
  /** Settles when it was acknowledged, which may be after a reconnect. */
  const post = (sending: Promise<void>): void => void sending.catch(() => undefined);
  return {
    claude,
    get program() {
      return program;
    },
    friends,
    strangers,
    write(who, text, { place = null, minutesAgo, ...letter } = {}) {
      const sentAt = stamp(minutesAgo);
      page.person(who, sentAt, describe(text, letter), text || (letter.files?.[0]?.name ?? ""));
      post(phones[who].write(sentAt, { text, ...letter }, place));
      return { who, sentAt, place };
    },
    edit({ who, sentAt: target, place }, text) {
      const sentAt = stamp();
      page.person(who, sentAt, `✎ ${page.nameOf(target)} → ${text}`, text);
      page.rename(target, text);
      post(phones[who].edit(sentAt, target, text, place));
      // Reactions stay with the first version.
      return { who, sentAt: target, place };
    },
    remove({ who, sentAt: target, place }) {
      page.person(who, 0, `🗑 ${page.nameOf(target)}`, "");
      post(phones[who].remove(stamp(), target, place));
    },
    react(who, emoji, place = null, text = "") {
      const target = page.last(text).sentAt;
      page.person(who, 0, `${emoji} on ${page.nameOf(target)}`, "");
      post(phones[who].react(stamp(), target, emoji, place));
    },
    async setGroupTimer(seconds) {
      groups.push(await mock.phone.modifyGroupDisappearingMessageTimer(friends, seconds));
      return groups.at(-1) ?? friends;
    },
    note: page.note,
    shows: page.shows,
    last: page.last,
    typing: page.typing,
    async idle() {
      for (let pending = 1; pending > 0;) {
        const { inbox, outbox } = await program.status();
        pending = inbox.pending + outbox.pending;
      }
    },
    async sent() {
      for (let pending = 1; pending > 0;) pending = (await program.status()).outbox.pending;
    },
    pass: (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1_000)),
    read: page.read,
    answered: page.answered,
    async restart(env = {}) {
      await program.stop();
      program = await start({ ...settings, ...env });
      await program.state("CONNECTED");
    },
    async cut() {
      await proxy.cut();
      await program.state("DISCONNECTED");
    },
    async mend() {
      await proxy.mend();
      await program.state("CONNECTED");
    },
    transcript: page.text,
    async [Symbol.asyncDispose]() {
      await program.stop("SIGKILL");
      await proxy.cut();
      await mock.stop();
      await claude.close();
      home.remove();
    },
  };
}

/** What a person wrote besides the text. */
const describe = (text: string, { isMention, quote, files = [], expiresInSeconds }: Letter): string =>
  [
    ...(quote ? [`▎ ${quote.text}`] : []),
    ...(text === "" ? [] : [`${isMention ? "@Claude " : ""}${text}`]),
    ...files.map(({ name }) => `[${name}]`),
    ...(expiresInSeconds ? [timer(expiresInSeconds)] : []),
  ].join("\n");
