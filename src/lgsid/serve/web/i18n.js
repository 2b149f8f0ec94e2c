// Words in the reader's language; elements with data-t, data-t-aria-label or data-t-placeholder follow the switch.
import en from "./strings/en.js";
import zh from "./strings/zh.js";

const WORDS = { en, zh };
const KEPT = "lgsid-language";
let language = start();

function start() {
  let kept = null;
  try {
    kept = localStorage.getItem(KEPT);
  } catch {
    kept = null; // storage may be forbidden; the browser's language decides then
  }
  return WORDS[kept] ? kept : navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export const languageNow = () => language;

export function setLanguage(name) {
  language = name;
  try {
    localStorage.setItem(KEPT, name);
  } catch {
    // the choice then lasts for this visit
  }
}

export function t(key, values = {}) {
  const words = WORDS[language][key];
  if (words === undefined) throw new Error(`no words for ${key}`);
  return words.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

export function number(value, digits = 0) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

export function distance(km) {
  if (km < 0.995) return t("metres", { n: number(Math.max(10, Math.round(km * 100) * 10)) });
  return t("km", { n: number(km, km < 100 ? 1 : 0) });
}

export function translate(root = document) {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const name of ["aria-label", "placeholder"]) {
    for (const node of root.querySelectorAll(`[data-t-${name}]`)) node.setAttribute(name, t(node.getAttribute(`data-t-${name}`)));
  }
  for (const node of document.querySelectorAll("[data-language]")) {
    node.setAttribute("aria-pressed", String(node.dataset.language === language));
  }
}
