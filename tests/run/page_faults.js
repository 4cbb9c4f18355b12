// Lists text with a contrast below 4.5 (WCAG 2, AA), buttons and regions without a name, and what the edge cuts off.
(isDark) => {
    document.body.classList.toggle("dark", isDark);
    document.body.style.setProperty("--button-transition", "none"); // or the colours are those on the way
    const numbers = (color) => color.match(/[\d.]+/g).map(Number);
    const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const over = (front, back, share) => front.slice(0, 3).map((v, i) => v * share + back[i] * (1 - share));
    const ground = (element) => {
        if (!element) return [255, 255, 255];
        const [r, g, b, a = 1] = numbers(getComputedStyle(element).backgroundColor);
        return a === 1 ? [r, g, b] : over([r, g, b], ground(element.parentElement), a);
    };
    const opacity = (element) => element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1;
    const faults = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const text = texts.currentNode, element = text.parentElement;
        const shown = element.checkVisibility({ visibilityProperty: true }) && element.offsetWidth > 1;
        if (!text.data.trim() || !shown || element.closest(":disabled, script, style, .sr-only")) continue;
        const back = ground(element), front = over(numbers(getComputedStyle(element).color), back, opacity(element));
        const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
        if ((high + 0.05) / (low + 0.05) < 4.5) faults.push(`too faint: ${text.data.trim()}`);
    }
    for (const button of document.querySelectorAll("button")) {
        const name = button.innerText.trim() || button.ariaLabel || button.querySelector("img[alt]:not([alt=''])")?.alt;
        if (!name && button.checkVisibility()) faults.push(`no name: ${button.outerHTML.slice(0, 80)}`);
    }
    for (const region of document.querySelectorAll("[role=region], [role=complementary]")) {
        if (!region.ariaLabel) faults.push(`no name: ${region.id}`);
    }
    for (const part of document.querySelectorAll("#layout, #layout button, #layout .message")) {
        const edge = part.getBoundingClientRect().right;
        if (edge > innerWidth) faults.push(`past the edge: ${part.innerText.trim().slice(0, 40)}`);
    }
    return faults;
}
