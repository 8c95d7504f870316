/** Numbers and ACIs made unrecognisable, and only the first line, at most 160 characters: for messages and logs. */
export function maskPeople(text: string): string {
  const line = text.trim().split("\n", 1)[0] ?? "";
  return line
    .replaceAll(/\+?\d{7,15}/gu, (number) => `…${number.slice(-2)}`)
    .replaceAll(/\b([0-9a-f]{4})[0-9a-f]{4}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/giu, "$1…")
    .slice(0, 160);
}
