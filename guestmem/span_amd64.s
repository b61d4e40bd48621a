#include "textflag.h"

// x86 does not reorder loads with later accesses, nor stores with earlier ones:
// plain moves are acquire and release (the Go compiler could move them, an
// assembly function it cannot).

// func loadAcquire16(p *uint16) uint16
TEXT ·loadAcquire16(SB), NOSPLIT, $0-10
	MOVQ    p+0(FP), AX
	MOVWLZX (AX), AX
	MOVW    AX, ret+8(FP)
	RET

// func storeRelease16(p *uint16, v uint16)
TEXT ·storeRelease16(SB), NOSPLIT, $0-10
	MOVQ p+0(FP), AX
	MOVW v+8(FP), CX
	MOVW CX, (AX)
	RET

// func Fence()
// A locked add to our own stack is as full a barrier as MFENCE and costs a
// quarter of it.
TEXT ·Fence(SB), NOSPLIT, $8-0
	LOCK
	ADDL $0, 0(SP)
	RET
