/** Files that are part of the program as text: `import text from "./page.css" with { type: "text" }`. */
declare module "*.css" {
  const text: string;
  export default text;
}
declare module "../../packaging/*" {
  const text: string;
  export default text;
}
declare module "*.md" {
  const text: string;
  export default text;
}
