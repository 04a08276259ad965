"""The OpenAPI document as one page for people: plain HTML, no script, nothing from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

Json = Mapping[str, Any]

STYLE = """
:root { color-scheme: light dark; --line: #d5d9e0; --soft: #f3f5f8; --faint: #5c6573; --link: #0b57d0;
  --get: #0a6b4b; --post: #0b57d0; --put: #8a5200; --delete: #b3261e; --head: #5c6573; }
@media (prefers-color-scheme: dark) { :root { --line: #3a4048; --soft: #21262d; --faint: #9aa4b2;
  --link: #8ab4f8; --get: #6ed3a8; --post: #8ab4f8; --put: #f0b866; --delete: #f2938c; --head: #9aa4b2; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
a { color: var(--link); }
code, .method { font: 0.9em/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
h1 { margin: 0; } h2 { margin: 2rem 0 0.5rem; } h3 { margin: 1rem 0 0.25rem; font-size: 1rem; }
p { margin: 0.25rem 0; } .faint { color: var(--faint); }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; margin: 1rem 0; }
details { border: 1px solid var(--line); border-radius: 0.5rem; margin: 0.5rem 0; }
details > div { padding: 0 0.75rem 0.75rem; }
summary { cursor: pointer; padding: 0.5rem 0.75rem; display: flex; flex-wrap: wrap; gap: 0.1rem 0.75rem; }
summary:hover, details[open] > summary { background: var(--soft); border-radius: 0.5rem; }
.method { font-weight: 700; min-width: 4em; text-transform: uppercase; }
.get { color: var(--get); } .post { color: var(--post); } .put { color: var(--put); }
.delete { color: var(--delete); } .head { color: var(--head); }
dl { margin: 0; display: grid; grid-template-columns: minmax(8rem, 14rem) 1fr; gap: 0.25rem 1rem; }
dt { border-top: 1px solid var(--line); padding-top: 0.25rem; }
dd { border-top: 1px solid var(--line); padding-top: 0.25rem; margin: 0; min-width: 0; }
dd dl { grid-template-columns: minmax(6rem, 11rem) 1fr; margin-top: 0.25rem; }
@media (max-width: 40rem) { dl, dd dl { grid-template-columns: 1fr; gap: 0; }
  dd { border: 0; padding: 0 0 0.5rem 0.75rem; } }
"""


def page(document: Json) -> str:
    """The whole page."""
    info = document["info"]
    tags = [tag["name"] for tag in document["tags"]]
    links = "".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag in [*tags, "schemas"])
    sections = "".join(_section(document, tag) for tag in tags)
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: REST</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{title}</h1><p>{escape(info['description'])}</p>"
        '<p class="faint">The same for programs: <a href="openapi.json">openapi.json</a> (OpenAPI '
        f"{escape(document['openapi'])})</p></header><nav>{links}</nav><main>{sections}{_schemas(document)}"
        "</main></body></html>"
    )


def _section(document: Json, tag: str) -> str:
    operations = "".join(
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag in operation["tags"] and method != "head"
    )
    return f'<h2 id="{escape(tag)}">{escape(tag.capitalize())}</h2>{operations}'


def _operation(path: str, method: str, operation: Json) -> str:
    return (
        f'<details id="{escape(operation["operationId"])}"><summary>'
        f'<span class="method {method}">{method}</span><code>{escape(path)}</code>'
        f'<span class="faint">{escape(operation["summary"])}</span></summary><div>'
        + _parameters(operation["parameters"])
        + (_content("Body", operation["requestBody"]) if "requestBody" in operation else "")
        + _responses(operation["responses"])
        + "</div></details>"
    )


def _parameters(parameters: Sequence[Json]) -> str:
    rows = [
        (_name(row["name"], row["required"], row["in"]), _told(row["description"], row["schema"]))
        for row in parameters
    ]
    return f"<h3>Parameters</h3>{_rows(rows)}" if rows else ""


def _content(title: str, body: Json) -> str:
    optional = "" if body.get("required", True) else ' <span class="faint">may be left out</span>'
    rows = [
        (f"<code>{escape(kind)}</code>", _shape(media["schema"])) for kind, media in body["content"].items()
    ]
    return f"<h3>{title}{optional}</h3>{_rows(rows)}"


def _responses(responses: Mapping[str, Json]) -> str:
    rows = []
    for status, response in responses.items():
        text = escape(response["description"])
        if status < "300":
            kinds = response.get("content", {}).items()
            text += "".join(
                f"<p><code>{escape(kind)}</code></p>{_shape(media['schema'])}" for kind, media in kinds
            )
        rows.append((f"<code>{status}</code>", text))
    return f"<h3>Answers</h3>{_rows(rows)}"


def _schemas(document: Json) -> str:
    parts = [
        f'<details id="schema-{escape(name)}" open><summary><code>{escape(name)}</code></summary>'
        f"<div>{_shape(schema)}</div></details>"
        for name, schema in document["components"]["schemas"].items()
    ]
    return f'<h2 id="schemas">Schemas</h2>{"".join(parts)}'


# -- shapes --------------------------------------------------------------------------------------------------


def _shape(schema: Json) -> str:
    """A schema: in words, and its fields below."""
    if "contentSchema" in schema:
        return f"<p>{escape(schema['description'])}</p>{_shape(schema['contentSchema'])}"
    words = f"<p>{_words(schema)}</p>"
    told = f"<p>{escape(schema['description'])}</p>" if "description" in schema else ""
    return words + told + "".join(_rows(list(_fields(part))) for part in _with_fields(schema))


def _told(text: str, schema: Json) -> str:
    plain = {key: value for key, value in schema.items() if key != "description"}
    return f"{_words(plain)}<p>{escape(text)}</p>"


def _with_fields(schema: Json) -> Iterator[Json]:
    """The objects that a reader must see right here: those without a name of their own."""
    if schema.get("properties"):
        yield schema
    for part in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        yield from _with_fields(part)
    items = schema.get("items")
    if items is not None:
        yield from _with_fields(items)


def _fields(schema: Json) -> Iterator[tuple[str, str]]:
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        below = "".join(_rows(list(_fields(part))) for part in _with_fields(field))
        yield _name(name, name in required), _told(field.get("description", ""), field) + below


def _words(schema: Json) -> str:
    """What a value is, in one line of HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        text = f'<a href="#schema-{name}">{name}</a>'
    elif "enum" in schema:
        text = " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    elif "const" in schema:
        text = f"<code>{escape(str(schema['const']).lower())}</code>"
    elif parts := [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        text = " or ".join(dict.fromkeys(map(_words, parts)))
    else:
        kinds = schema.get("type", "anything")
        text = escape(" or ".join([kinds] if isinstance(kinds, str) else kinds))
        if "items" in schema:
            text = text.replace("array", f"list of {_words(schema['items'])}")
    bounds = _bounds(schema)
    default = f", default <code>{escape(str(schema['default']))}</code>" if "default" in schema else ""
    return f"{text}{bounds}{default}"


def _bounds(schema: Json) -> str:
    texts = {
        "minimum": "from {}",
        "exclusiveMinimum": "above {}",
        "maximum": "to {}",
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "minItems": "at least {}",
        "maxItems": "at most {}",
        "pattern": "matching {}",
        "format": "({})",
    }
    said = [text.format(schema[key]) for key, text in texts.items() if schema.get(key) is not None]
    return f' <span class="faint">{escape(" ".join(said))}</span>' if said else ""


def _name(name: str, required: bool, place: str = "") -> str:
    notes = [note for note in (place, "required" if required else "") if note]
    text = f' <span class="faint">{", ".join(notes)}</span>' if notes else ""
    return f"<code>{escape(name)}</code>{text}"


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    return (
        "<dl>" + "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows) + "</dl>" if rows else ""
    )
