/* The kernels for GPUs, compiled ahead (IMAGE, made by the Makefile), as bytes of the program. */
        .section .rodata
        .globl  cuda_image, cuda_image_end
        .balign 64
cuda_image:
        .incbin IMAGE
cuda_image_end:
        .byte   0
        .section .note.GNU-stack,"",@progbits
