/**
 * `signalman service install|status|uninstall`: the daemon as a service of this user, on Linux by systemd, on macOS by launchd.
 *
 * The service sees nothing of the shell it was installed from: settings come from config.toml in the home folder.
 */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { BridgeError } from "../core/errors.ts";
import { variableOf, settingKeys } from "../settings.ts";
import { load, type Flags, type Io } from "./io.ts";

/** Runs a program to its end; `out` is what it wrote to stdout. Never rejects: a program that is not there has code 127. */
export type Exec = (program: string, ...args: string[]) => Promise<{ readonly code: number; readonly out: string }>;

export type Place = {
  readonly platform: string;
  /** What starts this program: the binary, or the runtime and the source. */
  readonly command: readonly string[];
  readonly exec: Exec;
};

export const herePlace = (): Place => ({
  platform: process.platform,
  command: process.argv[1]?.endsWith(".ts") ? [process.execPath, process.argv[1]] : [process.execPath],
  exec: (program, ...args) =>
    new Promise((resolve) => {
      execFile(program, args, (error, out) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : 127;
        resolve({ code, out: out.trim() });
      });
    }),
});

/** Seconds without a sign of life after which systemd starts the daemon anew. */
const watchdogSeconds = 60;
const label = "org.signalman.daemon";

type Manager = {
  readonly file: string;
  readonly text: () => Promise<string>;
  readonly up: readonly (readonly string[])[];
  readonly down: readonly (readonly string[])[];
  /** Exits with 0 while the service runs. */
  readonly probe: readonly string[];
  readonly advice: string;
};

/** @throws BridgeError `unsupported` where there is no service manager that we know */
function managerOf(io: Io, home: string, { platform, command, exec }: Place): Manager {
  const user = io.env["HOME"] ?? "";
  if (platform === "linux") {
    const file = join(io.env["XDG_CONFIG_HOME"] || join(user, ".config"), "systemd/user/signalman.service");
    const can = async (...words: Parameters<Exec>): Promise<boolean> => (await exec(...words)).code === 0;
    return {
      file,
      async text() {
        const canNotify = await can("systemd-notify", "--version");
        // Some systems forbid a user's services a view of the file system of their own; there the unit would not start.
        const sandbox = ["-p", "ProtectSystem=strict", "-p", "PrivateTmp=yes"];
        const canSandbox = await can("systemd-run", "--user", "--wait", "--quiet", ...sandbox, "true");
        if (!canSandbox)
          io.err("This system gives a user's service no file system view of its own: the unit goes without.\n");
        return systemdUnit(command, home, { canNotify, canSandbox });
      },
      up: [
        ["systemctl", "--user", "daemon-reload"],
        ["systemctl", "--user", "enable", "--now", "signalman.service"],
      ],
      down: [["systemctl", "--user", "disable", "--now", "signalman.service"]],
      probe: ["systemctl", "--user", "is-active", "--quiet", "signalman.service"],
      advice: "It ends with your last login; to keep it running: loginctl enable-linger\n",
    };
  }
  if (platform !== "darwin")
    throw new BridgeError("unsupported", `Cannot manage a service on ${platform}`, {
      hint: "Start `signalman run` with the service manager of your system.",
    });
  const domain = `gui/${process.getuid?.() ?? 0}`;
  const file = join(user, "Library/LaunchAgents", `${label}.plist`);
  return {
    file,
    text: () => Promise.resolve(launchdPlist(command, home)),
    up: [["launchctl", "bootstrap", domain, file]],
    down: [["launchctl", "bootout", `${domain}/${label}`]],
    probe: ["launchctl", "print", `${domain}/${label}`],
    advice: "",
  };
}

/**
 * A unit that may write nowhere but into its home. MemoryDenyWriteExecute is left out on purpose: the engine compiles as it runs. Node and Bun open no Unix datagram socket, so that READY and WATCHDOG go
 * through systemd's own `systemd-notify` (watchdog.ts); without that program there is no watchdog.
 * **Source:** systemd.service(5), systemd.exec(5), sd_notify(3).
 */
export function systemdUnit(
  command: readonly string[],
  home: string,
  { canNotify, canSandbox }: { readonly canNotify: boolean; readonly canSandbox: boolean },
): string {
  const quote = (word: string): string => `"${word.replaceAll("%", "%%").replaceAll(/[\\"]/gu, "\\$&")}"`;
  const sandbox = `ProtectSystem=strict
ReadWritePaths=${quote(home)}
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
`;
  const watched = ["Type=notify", "NotifyAccess=all", `WatchdogSec=${watchdogSeconds}`];
  return `[Unit]
Description=signalman: chat with Claude over Signal

[Service]
${canNotify ? watched.join("\n") : "Type=simple"}
ExecStart=${[...command, "run"].map((word) => quote(word.replaceAll("$", "$$$$"))).join(" ")}
Environment=${quote(`SIGNALMAN_HOME=${home}`)}
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2 3
TimeoutStopSec=30
UMask=0077
NoNewPrivileges=yes
${canSandbox ? sandbox : ""}RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=default.target
`;
}

/** **Source:** launchd.plist(5). It starts anew what ended with a failure, and logs beside the database. */
export function launchdPlist(command: readonly string[], home: string): string {
  const text = (word: string): string => {
    const safe = word.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    return `<string>${safe}</string>`;
  };
  return `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
  <key>Label</key>${text(label)}
  <key>ProgramArguments</key><array>${[...command, "run"].map(text).join("")}</array>
  <key>EnvironmentVariables</key><dict><key>SIGNALMAN_HOME</key>${text(home)}</dict>
  <key>RunAtLoad</key><true/>
  <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
  <key>ThrottleInterval</key><integer>10</integer>
  <key>Umask</key><integer>63</integer>
  <key>StandardErrorPath</key>${text(join(home, "signalman.log"))}
</dict></plist>
`;
}

/** @throws BridgeError `unsupported` `config` when the service manager refuses */
export async function installService(io: Io, flags: Flags, place: Place = herePlace()): Promise<number> {
  const { config, origins } = load(io, flags);
  const { file, text, up, advice } = managerOf(io, config.home, place);
  // A unit that names a folder which is not there does not start.
  mkdirSync(config.home, { recursive: true, mode: 0o700 });
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, await text());
  const unseen = settingKeys.filter((key) => key !== "home" && /environment|flag/u.test(origins[key]));
  if (unseen.length > 0)
    io.err(
      `The service does not see ${unseen.map(variableOf).join(", ")}: write them to ${config.home}/config.toml.\n`,
    );
  for (const [program = "", ...args] of up) {
    const { code } = await place.exec(program, ...args);
    if (code === 0) continue;
    throw new BridgeError("config", `Cannot start the service as ${program} ended with ${code}`, {
      hint: `The service file is written: ${file}. Run by hand: ${[program, ...args].join(" ")}`,
    });
  }
  io.out(`Installed and started: ${file}\n${advice}`);
  return 0;
}

/** Whether the service is installed here, and runs. @throws BridgeError `unsupported` */
export async function serviceState(io: Io, home: string, place: Place = herePlace()): Promise<"none" | "up" | "down"> {
  const { file, probe } = managerOf(io, home, place);
  if (!existsSync(file)) return "none";
  const [program = "", ...args] = probe;
  return (await place.exec(program, ...args)).code === 0 ? "up" : "down";
}

const stateTexts = {
  none: "Not installed.\n",
  up: "Installed, and it runs.\n",
  down: "Installed, but it does not run.\n",
};

/** Resolves to 0 while it runs, else to the exit code of a daemon that is not there. */
export async function showService(io: Io, flags: Flags, place?: Place): Promise<number> {
  const state = await serviceState(io, load(io, flags).config.home, place);
  io.out(stateTexts[state]);
  return state === "up" ? 0 : 4;
}

/** Stops and forgets the service; the home folder stays. */
export async function uninstallService(io: Io, flags: Flags, place: Place = herePlace()): Promise<number> {
  const { file, down } = managerOf(io, load(io, flags).config.home, place);
  if (!existsSync(file)) return (io.out(stateTexts.none), 0);
  for (const [program = "", ...args] of down) await place.exec(program, ...args);
  rmSync(file);
  io.out(`Stopped and removed: ${file}\n`);
  return 0;
}
