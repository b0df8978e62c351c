// Elements by construction: whatever comes from a result becomes a text node or an attribute, never markup.
const SVG = new Set(["svg", "line", "circle", "rect", "path", "g"]);

const h = (name, attributes = {}, ...children) => {
  const element = SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style")
      for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    else element.setAttribute(key, value === true ? "" : value);
  }
  return fill(element, ...children);
};

// Replaces what an element holds; null, undefined and false are left out.
const fill = (element, ...children) => {
  element.replaceChildren(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
};

const pairs = (entries) => {
  const kept = entries.filter(([, value]) => known(value) && value !== "" && value !== NONE);
  return kept.length
    ? h(
        "dl",
        {},
        kept.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))),
      )
    : null;
};

const field = (label, control) => h("label", { class: "field" }, h("span", {}, label), control);

const options = (select, values, chosen) => {
  select.replaceChildren(...values.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  return select;
};

// A table that scrolls sideways inside its own box is reached by keyboard and named.
const scroller = (name, table) => h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, table);
