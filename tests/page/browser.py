"""What the tests of pages in Chromium share: a telephone, and scripts that observe a page."""

PHONE = {
    "color_scheme": "dark",
    "viewport": {"width": 360, "height": 740},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
# Observes every page, from before its own script runs.
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
window.offered = [];
window.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    offered.push(protocols);
    super(url, protocols);
  }
};
"""
# Visible texts whose contrast with their background is less than 4.5 to 1 (WCAG 2.2, 1.4.3), out of more than `least`.
PALE = """(least) => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = parse(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
  };
  const found = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest(":disabled, svg, noscript")) continue;
    seen += 1;
    const [a, b] = [parse(getComputedStyle(element).color), behind(element)].map(light).sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(walker.currentNode.data.trim());
  }
  return seen > (least ?? 20) ? found : ["found only " + seen + " texts"];
}"""
NAMELESS = """() => [...document.querySelectorAll("input, textarea, select, button, summary")]
  .filter((one) => !one.labels?.[0]?.textContent.trim() && !one.ariaLabel && !one.textContent.trim())
  .map((one) => one.outerHTML)"""
