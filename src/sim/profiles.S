/* The shipped profiles, as they stand in profiles/: profile.c finds them here. The build runs in the
 * repository's root. */
    .section .rodata
    .global profiles_paper_l40s, profiles_paper_l40s_end
    .global profiles_h200, profiles_h200_end
profiles_paper_l40s:
    .incbin "profiles/paper-l40s.json"
profiles_paper_l40s_end:
profiles_h200:
    .incbin "profiles/h200.json"
profiles_h200_end:
    .byte 0
    .section .note.GNU-stack, "", @progbits
