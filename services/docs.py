"""The documentation page: the OpenAPI document rendered by a few lines of script, with nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from services import openapi

if TYPE_CHECKING:
    from services.champion import Served


class Documentation:
    """The document and its page, made once for each change of champions: they take 10 ms, and need no key."""

    def __init__(self) -> None:
        self._served: Mapping[str, Served] | None = None
        self._made = (b"", "")

    def of(self, served: Mapping[str, Served]) -> tuple[bytes, str]:
        """The document as JSON and the page as HTML, of what is served; a mapping that is never changed."""
        if served is not self._served:
            document = openapi.document(served)
            self._served, self._made = served, (msgspec.json.encode(document), page(document))
        return self._made


def page(document: dict[str, Any]) -> str:
    """A self-contained HTML page of an OpenAPI document."""
    # Nothing that is said in the document may end the script that it lies in, or begin another.
    text = msgspec.json.encode(document).decode().replace("<", "\\u003c")
    return PAGE.replace("{{document}}", text)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'">
<title>Headway: the prediction API</title>
<style>
  :root {
    color-scheme: light dark;
    --ink: #1d2430; --soft: #5a6576; --paper: #fff; --tint: #f3f5f8; --line: #dfe4ea; --mark: #0b5cad;
    font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e4e9f0; --soft: #9aa6b6; --paper: #12161c; --tint: #1c222b; --line: #2d3643; --mark: #7db8f5; }
  }
  body { max-width: 52rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
  h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
  h2 { font-size: 1.15rem; margin: 3rem 0 .25rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
  h3 { font-size: .8rem; margin: 1.5rem 0 .25rem; color: var(--soft); letter-spacing: .06em;
    text-transform: uppercase; }
  p { margin: .25rem 0 .75rem; } a { color: var(--mark); } small, .soft { color: var(--soft); }
  code, pre { font: .86em/1.5 ui-monospace, monospace; } code { overflow-wrap: anywhere; }
  .method { color: var(--mark); font: 600 .8rem ui-monospace, monospace; margin-right: .5rem; }
  nav a { display: block; padding: .3rem 0; text-decoration: none; }
  pre { margin: 0; padding: .8rem 1rem; overflow-x: auto; border-radius: 6px; background: var(--tint); }
  button { display: block; margin: .4rem 0 0 auto; padding: .15rem .7rem; border: 1px solid var(--line); font: inherit;
    border-radius: 4px; font-size: .8rem; color: var(--soft); background: var(--paper); cursor: pointer; }
  dl { margin: 0; } dl > div { padding: .35rem 0; border-bottom: 1px solid var(--line); }
  dl > div:last-child { border-bottom: 0; }
  dl > div > div { margin: .35rem 0 0; padding-left: 1rem; border-left: 2px solid var(--line); }
  dl > div > div > p { font-size: .9rem; color: var(--soft); margin: 0; }
  dt, dd { display: inline; margin: 0 .6rem 0 0; } dd:has(p) { display: block; margin: 0; }
  dd p { margin: .1rem 0; font-size: .9rem; color: var(--soft); }
</style>
</head>
<body>
<h1>The prediction API</h1>
<p id="about"></p>
<p>Everything below as one document, to generate clients from: <a href="openapi.json">openapi.json</a></p>
<nav></nav>
<main></main>
<script type="application/json" id="document">{{document}}</script>
<script>
const api = JSON.parse(document.getElementById("document").textContent);
const add = (parent, name, text, kind) => {
  const element = parent.appendChild(document.createElement(name));
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};
const prose = (parent, text) => text.split("`").forEach((part, number) =>
  number % 2 ? add(parent, "code", part) : parent.append(part));
const resolve = part => {
  while (part && part.$ref) part = part.$ref.slice(2).split("/").reduce((found, step) => found[step], api);
  return part || {};
};

// A schema in words: its type, and the limits that say more than the type does.
const LIMITS = { minimum: "at least", exclusiveMinimum: "above", maximum: "at most", exclusiveMaximum: "below",
  minLength: "length at least", maxLength: "length at most", minItems: "at least", maxItems: "at most",
  pattern: "matching" };
const telling = (name, limit) => limit !== undefined && !(Math.abs(limit) > Number.MAX_SAFE_INTEGER)
  && !(name === "minItems" && limit === 1);
const words = schema => {
  const own = resolve(schema);
  if (own.anyOf) return [...new Set(own.anyOf.map(words))].join(" or ");
  if (own.enum) return own.enum.map(each => JSON.stringify(each)).join(" or ");
  if (own.const !== undefined) return JSON.stringify(own.const);
  const type = own.type === "array" ? "list of " + words(own.items)
    : own.format === "date-time" ? "instant" : own.type === "object" ? own.title || "object" : own.type || "anything";
  const limits = Object.entries(LIMITS).filter(([name]) => telling(name, own[name]) && own.format !== "date-time")
    .map(([name, text]) => text + " " + own[name]);
  return [type, ...limits].join(", ");
};
const inner = schema => {
  const own = resolve(schema);
  if (own.anyOf) return own.anyOf.flatMap(inner);
  return own.type === "array" ? inner(own.items) : own.properties ? [own] : [];
};
const fields = (parent, schema) => {
  const list = add(parent, "dl");
  for (const [name, part] of Object.entries(schema.properties)) {
    const row = add(list, "div");
    add(add(row, "dt"), "code", name);
    add(row, "dd", words(part));
    if (!(schema.required || []).includes(name)) add(row, "dd", "optional", "soft");
    const about = part.description || (part.anyOf || []).map(each => each.description).find(Boolean);
    if (about) add(add(row, "dd"), "p", about);
    const several = inner(part).length > 1;
    for (const below of inner(part)) {
      const box = add(row, "div");
      if (several) add(box, "p", "either " + below.title);
      if (below.description) prose(add(box, "p"), below.description);
      fields(box, below);
    }
  }
};

const quoted = text => "'" + text.replaceAll("'", "'\\\\''") + "'";
const curl = (method, path, operation) => {
  const origin = location.origin === "null" ? "" : location.origin;
  const named = (operation.parameters || []).reduce((text, each) =>
    text.replace("{" + each.name + "}", Object.values(each.examples || {})[0]?.value || each.name), path);
  const lines = ["curl --fail-with-body " + origin + named, '-H "Authorization: Bearer $HEADWAY_API_KEY"'];
  const content = operation.requestBody?.content["application/json"];
  if (content)
    lines.push("-H 'Content-Type: application/json'", "-d " + quoted(JSON.stringify(content.example, null, 1)));
  return lines.join(" \\\\\\n  ");
};
const copied = (parent, text) => {
  add(parent, "pre", text);
  const button = add(parent, "button", "Copy");
  button.onclick = async () => { await navigator.clipboard.writeText(text); button.textContent = "Copied"; };
};

const main = document.querySelector("main"), nav = document.querySelector("nav"), refusals = {};
prose(document.getElementById("about"), api.info.description);
const heading = (id, method, text) => {
  const title = add(main, "h2"), link = add(nav, "a");
  title.id = id;
  link.href = "#" + id;
  for (const each of [title, link]) {
    if (method) add(each, "span", method, "method");
    add(each, method ? "code" : "span", text);
  }
};
for (const [path, methods] of Object.entries(api.paths))
  for (const [method, operation] of Object.entries(methods)) {
    heading(operation.operationId, method.toUpperCase(), path);
    add(main, "p", operation.summary);
    const content = operation.requestBody?.content["application/json"];
    if (!content || content.example) copied(main, curl(method, path, operation));
    if (content) { add(main, "h3", "Request"); fields(main, resolve(content.schema)); }
    for (const [code, told] of Object.entries(operation.responses)) {
      const answer = resolve(told);
      if (code >= "400") { refusals[code] = answer; continue; }
      add(main, "h3", code + ": " + answer.description);
      for (const each of inner(answer.content["application/json"].schema)) {
        if (each.description) prose(add(main, "p"), each.description);
        fields(main, each);
      }
    }
    const codes = Object.keys(operation.responses).filter(code => code >= "400");
    const last = add(main, "p", "Refused with " + codes.join(", ") + ": ", "soft");
    add(last, "a", "what they mean").href = "#refusals";
  }
heading("refusals", "", "Refusals");
add(main, "p", "All have one body. Nothing of what was refused is kept in the log of the service.");
inner(Object.values(refusals)[0].content["application/json"].schema).forEach(each => fields(main, each));
add(main, "h3", "By status");
const meanings = add(main, "dl");
for (const [code, answer] of Object.entries(refusals)) {
  const row = add(meanings, "div");
  add(add(row, "dt"), "code", code);
  add(row, "dd", answer.description);
  const extra = Object.keys(answer.headers).filter(name => name !== "X-Request-Id");
  if (extra.length) add(row, "dd", "header " + extra.join(", "), "soft");
}
</script>
</body>
</html>
"""
