package device

import (
	"path/filepath"
	"testing"
)

// Whatever its peers do, the device keeps the promises that it made to those who
// keep to the rules, and at the end nothing is left.
func FuzzDevice(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "v")
	openFds() // opens the runtime's own
	f.Fuzz(func(t *testing.T, p []byte) { play(t, path, p) })
}

const everything = withEventIdx | withIndirect | withSeqpacket | withEvents

// buffers posts eight receive buffers of 4 KiB; turns lets the device work.
var (
	buffers = program{opBuffers, 7, 0xd4, 0x0f, 0}
	turns   = program{opTurns, 8}
)

// seeds reach the states that are worth to start from.
var seeds = []program{
	join(program{everything}, guestConnects(1), toHost, toGuest, halfClose),
	join(program{everything | withPacked}, guestConnects(1), toHost, toGuest, halfClose),
	join(program{everything}, guestConnects(2), toHost, toGuest, toHost, halfClose),
	join(program{everything | withPacked}, guestConnects(2), toHost, toGuest, toHost, halfClose),
	join(program{everything}, hostConnects(1), toHost, toGuest, halfClose),
	join(program{everything | withPacked}, hostConnects(2), toHost, toGuest, halfClose),
	join(program{withSmallRing}, hostConnects(1), toHost, toGuest, toHost),
	join(program{withPacked | withSmallRing}, guestConnects(1), toHost, toGuest, toHost),
	join(program{everything}, guestConnects(1), toHost, program{opStop, 0, opStop, 1}, toGuest, program{opStop, 0, opStop, 1}, turns, toHost),
	join(program{everything | withPacked}, guestConnects(1), toHost, program{opStop, 1, opSend, 0, 9, 0, 0, 1, opStop, 1}, turns, toGuest),
	join(program{everything}, guestConnects(1), program{opNewDriver, 0}, turns, guestConnects(1), toHost),
	join(program{everything | withPacked}, hostConnects(1), program{opNewDriver, 1}, turns, hostConnects(1), toGuest),
	join(program{everything}, guestConnects(1), program{opStop, 0, opStop, 1, opStop, 2, opState, 0}, turns, program{opState, 1}, turns, program{opStop, 0, opStop, 1, opStop, 2}, buffers, turns),
	join(program{everything}, guestConnects(1), program{opCID, 2}, turns, buffers, turns, guestConnects(1)),
	join(program{everything}, guestConnects(1), program{opSession}, turns, buffers, turns, guestConnects(1), toHost),
	join(program{0}, hostConnects(1), program{opTime, 2}, turns, program{opTime, 3}, turns, program{opShut, 0, 3}, turns, program{opTime, 3}, turns),
	join(program{everything}, guestConnects(1), program{opPacket, 0, 5, 0x40, 9, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1}, turns),
	join(program{everything}, guestConnects(1), program{opChain, 1, 2, 1, 0, 1, 44, 0, 1, 3, 0, 2, 44, 0, 2, 0}, turns),
	join(program{withPacked}, guestConnects(1), program{opChain, 1, 2, 1, 0, 1, 44, 0, 1, 3, 0, 2, 44, 0, 2, 0}, turns),
	join(program{everything}, guestConnects(1), program{opWord, 1, 1, 2, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0}, turns),
	join(program{everything}, guestConnects(1), program{opMessage, 34, 0, 0}, turns, program{opMessage, 11, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0}, turns),
	join(program{everything}, guestConnects(1), program{opShrink, 0, 0}, toHost),
	join(program{0, opConnect, 0, 1, 0, opClient, 0, 10}, program("CONNECT 1\n"), buffers, turns, program{opClient, 0, 3, 'a', 'b', 'c'}, turns, buffers, turns),
}

// guestConnects makes the guest connect to a host program.
func guestConnects(typ byte) program {
	return join(buffers, program{opListen, 1, typ - 1, opRequest, typ - 1, 1, 8}, turns, turns)
}

// hostConnects makes a host program connect to the guest.
func hostConnects(typ byte) program {
	return join(buffers, program{opConnect, typ - 1, 1, 1}, turns, turns, buffers, program{opRead, 0, 1})
}

var (
	toHost = join(
		program{opSend, 0, 100, 0, 1, 1, opSend, 0, 0, 0x20, 2, 1}, turns, program{opRead, 0, 3}, buffers,
		program{opSend, 0, 0, 0xf0, 2, 1}, turns, program{opRead, 0, 3}, turns)
	toGuest = join(
		program{opWrite, 0, 100, 0, opWrite, 0, 0, 0x40}, buffers, turns, buffers, turns, program{opSay, 0, 0}, turns)
	halfClose = join(
		program{opSay, 0, 3}, turns, program{opRead, 0, 3, opWrite, 0, 9, 0, opShut, 0, 1}, turns, buffers, turns, program{opSay, 0, 4}, turns)
)

func join(parts ...program) (whole program) {
	for _, p := range parts {
		whole = append(whole, p...)
	}
	return whole
}
