#include "textflag.h"

// func loadAcquire16(p *uint16) uint16
TEXT ·loadAcquire16(SB), NOSPLIT, $0-10
	MOVD  p+0(FP), R0
	LDARH (R0), R1
	MOVH  R1, ret+8(FP)
	RET

// func storeRelease16(p *uint16, v uint16)
TEXT ·storeRelease16(SB), NOSPLIT, $0-10
	MOVD  p+0(FP), R0
	MOVHU v+8(FP), R1
	STLRH R1, (R0)
	RET

// func Fence()
// DMB ISH: the guest's processors are in our inner shareable domain.
TEXT ·Fence(SB), NOSPLIT, $0-0
	DMB $0xb
	RET
