#!/bin/sh -eu
# usage: builtin_model.sh MODEL.json OUT.S — assembly that puts the file into the program.
# The checksum makes the output differ whenever the model does, so that it is assembled again.
model=$(realpath "$1")
cat > "$2" <<EOF
/* $(cksum < "$model") */
#ifdef __CET__
#include <cet.h> /* the mark that nothing here breaks control-flow protection */
#endif
    .section .rodata
    .global seismo_model_begin, seismo_model_end
    .hidden seismo_model_begin, seismo_model_end
seismo_model_begin:
    .incbin "$model"
seismo_model_end:
    .section .note.GNU-stack,"",%progbits
EOF
