/** The name and version of this program; `build.ts` puts the commit in. */
import manifest from "../package.json" with { type: "json" };

declare const SIGNALMAN_COMMIT: string | undefined;
declare const SIGNALMAN_RELEASES: string | null | undefined;
declare const SIGNALMAN_RELEASE_KEY: string | null | undefined;

export const version: string = manifest.version;
/** Short commit of the build, or `source` when run from the source. */
export const commit: string = typeof SIGNALMAN_COMMIT === "string" ? SIGNALMAN_COMMIT : "source";
/** The URL of this build's releases; null where the build names none. */
export const releasesUrl: string | null = typeof SIGNALMAN_RELEASES === "string" ? SIGNALMAN_RELEASES : null;
/** The public key (minisign) that signs the releases; null in a build without one, where only TLS tells whose they are. */
export const releaseKey: string | null = typeof SIGNALMAN_RELEASE_KEY === "string" ? SIGNALMAN_RELEASE_KEY : null;
/** The URL of the documents; null where the build names none. */
export const homepage: string | null = releasesUrl?.replace(/\/releases\/.*$/u, "") ?? null;
