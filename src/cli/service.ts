/**
 * `signalman service install|status|uninstall`: the daemon as a service of this user, on Linux by systemd, on macOS by launchd.
 *
 * The service has no variable of the shell that installed it: settings come from config.toml in the home folder.
 */
import plistTemplate from "../../packaging/org.signalman.daemon.plist" with { type: "text" };
import unitTemplate from "../../packaging/signalman.service" with { type: "text" };
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { childEnv } from "../child-env.ts";
import type { Config, Loaded } from "../config.ts";
import { BridgeError } from "../core/errors.ts";
import { ownProgram } from "../core/model.ts";
import { variableOf, settingKeys } from "../settings.ts";
import { load, ownCommand, runAttached, wrong, type Cli, type Io } from "./io.ts";

type Words = readonly [program: string, ...args: string[]];
/** Runs a program to its end; `out` is its output. Never rejects: a program that is not there has code 127. */
export type Exec = (...words: Words) => Promise<{ readonly code: number; readonly out: string }>;

export type ServicePlace = {
  readonly platform: string;
  /** The command that starts this program: the binary, or the runtime and the source. */
  readonly command: readonly string[];
  readonly exec: Exec;
};

const here: ServicePlace = {
  platform: process.platform,
  command: ownCommand,
  exec: (program, ...args) =>
    new Promise((resolve) => {
      const { NOTIFY_SOCKET } = process.env;
      execFile(program, args, { env: childEnv({ NOTIFY_SOCKET }) }, (error, out, err) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : 127;
        resolve({ code, out: `${out}${err}`.trim() });
      });
    }),
};

const unit = "signalman.service";
const label = "org.signalman.daemon";

type Manager = {
  readonly file: string;
  readonly text: () => Promise<string>;
  readonly up: readonly Words[];
  readonly down: Words;
  /** A command that exits with 0 while the service runs. */
  readonly probe: Words;
  readonly advice: string;
};

/** @throws BridgeError `unsupported` where there is no service manager that we know */
function managerOf(cli: Cli, config: Config, { platform, command, exec }: ServicePlace): Manager {
  const { home } = config;
  const user = cli.env["HOME"] || homedir();
  if (platform === "darwin") {
    const domain = `gui/${process.getuid?.() ?? 0}`;
    const file = join(user, "Library/LaunchAgents", `${label}.plist`);
    return {
      file,
      text: () => Promise.resolve(launchdPlist(command, home)),
      up: [["launchctl", "bootstrap", domain, file]],
      down: ["launchctl", "bootout", `${domain}/${label}`],
      probe: ["launchctl", "print", `${domain}/${label}`],
      advice: "",
    };
  }
  if (platform !== "linux") throw noManager(platform);
  const systemctl = (...args: string[]) => ["systemctl", "--user", ...args] as const;
  return {
    file: join(cli.env["XDG_CONFIG_HOME"] || join(user, ".config"), "systemd/user", unit),
    async text() {
      const { code, out } = await exec(...systemctl("show-environment"));
      if (code === 127) throw noManager("a Linux without systemd");
      if (code !== 0)
        throw new BridgeError("unsupported", `Cannot reach the service manager of this user: ${out}`, {
          hint: "Log in as this user (not by su or sudo), or set XDG_RUNTIME_DIR=/run/user/<its id>.",
        });
      // Some systems forbid a user's services a view of the file system of their own; there the unit would not start.
      const sandbox = ["-p", "ProtectSystem=strict", "-p", "PrivateTmp=yes"];
      const canSandbox = (await exec("systemd-run", "--user", "--wait", "--quiet", ...sandbox, "true")).code === 0;
      if (!canSandbox)
        cli.err("This system gives a user's service no file system view of its own: the unit goes without.\n");
      return systemdUnit(command, home, canSandbox, placesOf(config, user));
    },
    up: [systemctl("daemon-reload"), systemctl("enable", "--now", unit)],
    down: systemctl("disable", "--now", unit),
    probe: systemctl("is-active", "--quiet", unit),
    advice: "It ends with your last login; to keep it running: loginctl enable-linger\n",
  };
}

/** The folders of the projects; and where Claude Code is used, what it keeps of itself. */
function placesOf({ projects, backend }: Config, user: string): UnitPlaces {
  const isOwn = backend === ownProgram || projects.some((project) => project.backend === ownProgram);
  const own = isOwn ? [join(user, ".claude"), join(user, ".claude.json")] : [];
  return {
    folders: [...projects.map(({ folder }) => folder), ...own],
    isNested: isOwn || projects.some(({ run }) => run),
  };
}

const noManager = (where: string): BridgeError =>
  new BridgeError("unsupported", `Cannot manage a service on ${where}`, {
    hint: "Start `signalman run` with the service manager of your system.",
  });

const fill = (template: string, values: Readonly<Record<string, string>>): string =>
  template.replaceAll(/@(\w+)@/gu, (_, name: string) => values[name] ?? "");

/** What the unit lets signalman write beside its home, and whether programs that it starts make sandboxes of their own. */
export type UnitPlaces = { readonly folders: readonly string[]; readonly isNested: boolean };

/** packaging/signalman.service, filled; without a sandbox the lines that make one are comments. */
export function systemdUnit(
  command: readonly string[],
  home: string,
  canSandbox: boolean,
  { folders, isNested }: UnitPlaces = { folders: [], isNested: false },
): string {
  const quote = (word: string): string => `"${word.replaceAll("%", "%%").replaceAll(/[\\"]/gu, "\\$&")}"`;
  const START = [...command, "run"].map((word) => quote(word.replaceAll("$", "$$$$"))).join(" ");
  // A folder that is not there, as of a disk that is not mounted, keeps the service from nothing.
  const writable = [home, ...folders.map((folder) => `-${folder}`)].map(quote).join(" ");
  const places = { HOME: quote(`SIGNALMAN_HOME=${home}`), FOLDER: writable };
  return fill(unitTemplate, { START, ...places, SANDBOX: canSandbox ? "" : "# ", NESTED: isNested ? "# " : "" });
}

/** packaging/org.signalman.daemon.plist, filled. */
export function launchdPlist(command: readonly string[], home: string): string {
  const text = (word: string): string =>
    `<string>${word.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")}</string>`;
  const START = [...command, "run"].map(text).join("");
  return fill(plistTemplate, { START, HOME: text(home), LOG: text(join(home, "signalman.log")) });
}

const stateTexts = {
  none: "Not installed.\n",
  up: "Installed, and it runs.\n",
  down: "Installed, but it does not run.\n",
};

/** The service of this home, as the commands and doctor see it. @throws BridgeError `unsupported` where there can be none */
export function serviceOf(cli: Cli, { config, origins }: Loaded = load(cli), place: ServicePlace = here) {
  const { file, text, up, down, probe, advice } = managerOf(cli, config, place);

  const state = async (): Promise<keyof typeof stateTexts> => {
    if (!existsSync(file)) return "none";
    return (await place.exec(...probe)).code === 0 ? "up" : "down";
  };

  return {
    state,

    async install(): Promise<number> {
      const content = await text();
      // A running service would go on with the file of before, so it is stopped.
      if (existsSync(file)) await place.exec(...down);
      // A unit that names a missing folder does not start.
      mkdirSync(config.home, { recursive: true, mode: 0o700 });
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, content);
      const unseen = settingKeys.filter((key) => key !== "home" && /environment|flag/u.test(origins[key]));
      const names = unseen.map(variableOf).join(", ");
      if (names !== "") cli.err(`The service does not see ${names}: write them to ${config.home}/config.toml.\n`);
      for (const command of up) {
        const { code, out } = await place.exec(...command);
        if (code === 0) continue;
        const why = out === "" ? `${command[0]} ended with ${code}` : `${command[0]} says: ${out}`;
        throw new BridgeError("unsupported", `Cannot start the service as ${why}`, {
          hint: `The service file is written: ${file}. Run by hand: ${command.join(" ")}`,
        });
      }
      cli.out(`Installed and started: ${file}\n${advice}`);
      return 0;
    },

    /** Resolves to 0 while it runs, else to the exit code of a daemon that is not there. */
    async status(): Promise<number> {
      const found = await state();
      cli.out(stateTexts[found]);
      return found === "up" ? 0 : 4;
    },

    /** Shows the log of the service: the journal, or the file of launchd. */
    async logs({ follow }: { readonly follow?: true }): Promise<number> {
      const log = join(config.home, "signalman.log");
      const journal = ["--user", "--unit", unit, "--lines=200", "--no-hostname", ...(follow ? ["--follow"] : [])];
      if (place.platform === "linux" && existsSync(file)) return runAttached("journalctl", journal);
      if (existsSync(log)) return runAttached("tail", ["-n", "200", ...(follow ? ["-F"] : []), log]);
      const hint = "`signalman run` writes its log to standard error, where it was started.";
      throw wrong("Cannot show a log as no service is installed", hint);
    },

    /** Stops and forgets the service; the home folder stays. */
    async uninstall(): Promise<number> {
      if (!existsSync(file)) return (cli.out(stateTexts.none), 0);
      await place.exec(...down);
      rmSync(file);
      cli.out(`Stopped and removed: ${file}\n`);
      return 0;
    },
  };
}

/**
 * Tells systemd that the daemon is ready, and again and again that its loop turns; without $NOTIFY_SOCKET it does nothing.
 * Runs until `signal` aborts. A line that is down, or a full disk, is no reason to start anew: only a program that is stuck sends
 * nothing. **Source:** sd_notify(3), sd_watchdog_enabled(3): half of WATCHDOG_USEC is the pace they ask for.
 */
export async function keepWatch(
  { env, clock }: Pick<Io, "env" | "clock">,
  signal: AbortSignal,
  exec: Exec = here.exec,
): Promise<void> {
  if (!env["NOTIFY_SOCKET"]) return;
  await exec("systemd-notify", "--ready");
  const periodMs = Number(env["WATCHDOG_USEC"] ?? 0) / 2000;
  if (periodMs === 0) return;
  while (!signal.aborted) {
    await exec("systemd-notify", "WATCHDOG=1");
    await clock.sleep(periodMs, signal);
  }
}
