// What Gradio's own page lacks: names for a screen reader, the text of an answer as it was written to copy, pictures
// dropped on the conversation, and a box that has the focus without the page having been scrolled to it.
() => {
    const setTo = (element, name, value) => {
        if (element && element.getAttribute(name) !== value) element.setAttribute(name, value);
    };

    const nameRegion = (element, role, name) => {
        setTo(element, "role", role);
        setTo(element, "aria-label", name);
    };

    const nameAll = () => {
        nameRegion(document.querySelector("#talk"), "region", "Conversation");
        nameRegion(document.querySelector("#controls"), "region", "Settings");
        nameRegion(document.querySelector("#example"), "group", "Record");
        for (const file of document.querySelectorAll("#box .thumbnail-wrapper")) {
            nameRegion(file, "group", "File of the question"); // an item of a list, says Gradio, but it is in none
        }
        for (const chat of document.querySelectorAll(".chat")) {
            const speaker = chat.querySelector("h2")?.textContent ?? "";
            setTo(chat.querySelector('[role="log"]'), "aria-label", speaker);
            setTo(chat.querySelector(".placeholder-content"), "role", "note");
            // Gradio puts the whole text into these names, as markup.
            for (const said of chat.querySelectorAll('[data-testid="user"]')) nameRegion(said, "group", "Question");
            for (const said of chat.querySelectorAll('[data-testid="bot"]')) {
                nameRegion(said, "group", said.querySelector(".facts") ? "About the answer" : "Answer");
            }
            for (const picture of chat.querySelectorAll("button:has(> .image-frame)")) {
                setTo(picture, "aria-label", "Enlarge the picture");
            }
        }
    };

    const copyAsWritten = (event) => {
        const button = event.target.closest?.('.message-buttons button[aria-label="Copy message"]');
        const row = button?.closest(".message-buttons").previousElementSibling;
        if (!row) return;
        event.stopImmediatePropagation();
        const written = row.querySelectorAll("pre.plain, pre.written"); // the last: thoughts come before the answer
        const text = written[written.length - 1]?.textContent ?? "";
        if (navigator.clipboard) {
            navigator.clipboard.writeText(text);
            return;
        }
        const field = document.createElement("textarea"); // a page that is not at 127.0.0.1 has no clipboard
        field.value = text;
        document.body.append(field);
        field.select();
        document.execCommand("copy");
        field.remove();
    };

    const takeDropped = (event) => {
        const field = document.querySelector("#box input[type=file]");
        if (!event.target.closest?.("#chats") || !event.dataTransfer?.types.includes("Files") || !field) return;
        event.preventDefault();
        if (event.type !== "drop") return;
        field.files = event.dataTransfer.files;
        field.dispatchEvent(new Event("change", { bubbles: true }));
    };

    nameAll();
    new MutationObserver(nameAll).observe(document.body, {
        subtree: true,
        childList: true,
        attributeFilter: ["aria-label", "role"],
    });
    document.addEventListener("click", copyAsWritten, true);
    document.addEventListener("dragover", takeDropped);
    document.addEventListener("drop", takeDropped);
    if (matchMedia("(min-width: 701px) and (hover: hover)").matches) {
        document.querySelector("#box textarea")?.focus({ preventScroll: true });
    }
}
