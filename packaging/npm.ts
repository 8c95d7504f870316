/**
 * Packages for `npx signalman`, from the binaries of a release: `bun packaging/npm.ts dist dist/npm`, then `npm publish` in each folder,
 * the platforms first. The package `signalman` is a few lines; npm installs the one platform package that fits.
 */
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import manifest from "../package.json" with { type: "json" };

const platforms = ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64", "windows-x64"];

/** `dist` holds `signalman-<platform>`, those that are missing are left out. */
export function writePackages(dist: string, out: string): void {
  const { version, license, description } = manifest;
  const write = (folder: string, fields: object): void =>
    writeFileSync(
      join(folder, "package.json"),
      `${JSON.stringify({ version, license, description, ...fields }, null, 2)}\n`,
    );
  const found = platforms.flatMap((platform) => {
    const ending = platform.startsWith("windows") ? ".exe" : "";
    const binary = join(dist, `signalman-${platform}${ending}`);
    if (!existsSync(binary)) return [];
    const folder = join(out, platform);
    mkdirSync(folder, { recursive: true });
    copyFileSync(binary, join(folder, `signalman${ending}`));
    const [os = "", cpu = ""] = platform.split("-");
    const name = `@signalman/${platform}`;
    write(folder, {
      name,
      os: [os === "windows" ? "win32" : os],
      cpu: [cpu],
      ...(os === "linux" && { libc: ["glibc"] }),
    });
    return [[name, version] as const];
  });
  const main = join(out, "signalman");
  mkdirSync(main, { recursive: true });
  copyFileSync(join(import.meta.dirname, "npm/signalman.cjs"), join(main, "signalman.cjs"));
  write(main, { name: "signalman", bin: "signalman.cjs", optionalDependencies: Object.fromEntries(found) });
}

if (import.meta.main) writePackages(process.argv[2] ?? "dist", process.argv[3] ?? "dist/npm");
