"""The documentation page: the OpenAPI document rendered by a few lines of script, with nothing from elsewhere."""

from __future__ import annotations

from typing import Any

import msgspec


def page(document: dict[str, Any]) -> str:
    """A self-contained HTML page of an OpenAPI document."""
    # "</" inside a script would end it.
    text = msgspec.json.encode(document).decode().replace("</", "<\\/")
    return PAGE.replace("{{document}}", text)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Headway: the prediction API</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  code, pre { font: 14px/1.45 ui-monospace, monospace; }
  pre { overflow-x: auto; padding: .75rem; background: color-mix(in srgb, currentColor 8%, transparent); }
  h2 { margin-top: 2.5rem; border-top: 1px solid; padding-top: 1rem; }
  h2 b { font-weight: 600; margin-right: .5rem; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
</style>
<h1>The prediction API</h1>
<p>Send your key as <code>Authorization: Bearer &lt;key&gt;</code>.
   The same as JSON: <a href="openapi.json">openapi.json</a>.</p>
<main></main>
<script type="application/json" id="document">{{document}}</script>
<script>
const api = JSON.parse(document.getElementById("document").textContent);
const main = document.querySelector("main");
const resolve = schema =>
  schema && schema.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema || {};
const add = (parent, name, text) => {
  const element = parent.appendChild(document.createElement(name));
  if (text !== undefined) element.textContent = text;
  return element;
};
const kind = schema => {
  const own = resolve(schema);
  if (own.anyOf) return own.anyOf.map(kind).join(" or ");
  if (own.enum) return "one of " + own.enum.join(", ");
  if (own.const !== undefined) return JSON.stringify(own.const);
  if (own.type === "array") return "list of " + kind(own.items);
  const limits = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minItems", "maxItems",
    "maxLength", "pattern"].filter(name => own[name] !== undefined).map(name => name + " " + own[name]);
  return [own.title && own.type === "object" ? own.title : own.type, own.format, ...limits].filter(Boolean).join(", ");
};
const table = (parent, schema, seen = new Set()) => {
  const own = resolve(schema);
  if (!own.properties || seen.has(own)) return;
  seen.add(own);
  const rows = add(parent, "table");
  for (const [name, part] of Object.entries(own.properties)) {
    const row = add(rows, "tr");
    add(add(row, "td"), "code", name);
    add(row, "td", (own.required || []).includes(name) ? "required" : "");
    add(row, "td", kind(part));
  }
  for (const part of Object.values(own.properties)) {
    const below = resolve(part).items ? resolve(resolve(part).items) : resolve(part);
    if (below.properties && below.title) { add(parent, "h4", below.title); table(parent, below, seen); }
  }
};
const example = schema => {
  const own = resolve(schema);
  if (own.anyOf) return example(own.anyOf[0]);
  if (own.enum) return own.enum[0];
  if (own.type === "object")
    return Object.fromEntries((own.required || []).map(name => [name, example(own.properties[name])]));
  if (own.type === "array") return [example(own.items)];
  if (own.format === "date-time") return "2030-01-01T12:00:00Z";
  return { integer: own.minimum || 1, number: own.minimum > 0 ? own.minimum : 1.5, boolean: true }[own.type] || "text";
};
for (const [path, methods] of Object.entries(api.paths))
  for (const [method, operation] of Object.entries(methods)) {
    const title = add(main, "h2");
    add(title, "b", method.toUpperCase());
    add(title, "code", path);
    add(main, "p", operation.summary);
    if (operation.requestBody) {
      const schema = operation.requestBody.content["application/json"].schema;
      add(main, "h3", "Request");
      table(main, schema);
      add(main, "pre", JSON.stringify(example(schema), null, 2));
    }
    add(main, "h3", "Answers");
    const rows = add(main, "table");
    for (const [code, answer] of Object.entries(operation.responses)) {
      const row = add(rows, "tr");
      add(add(row, "td"), "code", code);
      add(row, "td", answer.description);
    }
    table(main, (operation.responses["200"].content || {})["application/json"].schema);
  }
</script>
</html>
"""
