/** What the browser shows in its tab: three cells of a residency strip. */
export const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
<rect width="16" height="16" rx="3" fill="#0f6fb8"/>
<path fill="#fff" d="M3 4h3v8H3zM10 4h3v8h-3z"/><path fill="#fff" fill-opacity=".5" d="M6.5 4h3v8h-3z"/>
</svg>
`;
