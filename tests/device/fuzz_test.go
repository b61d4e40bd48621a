package device

import "testing"

// Whatever its peers do, the device keeps the promises that it made to those who
// keep to the rules, and at the end nothing is left.
func FuzzDevice(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	h := newHosts(f)
	openFds() // opens the runtime's own
	f.Fuzz(func(t *testing.T, p []byte) { play(t, h, p[:min(len(p), longest)]) })
}

// longest is how many bytes of a program are played. One of thousands of operations
// may take so long on a busy machine that it counts as hung.
const longest = 1 << 10

const everything = withEventIdx | withIndirect | withSeqpacket | withEvents

// with begins a program.
func with(bits uint16) program { return program{byte(bits), byte(bits >> 8)} }

// buffers posts eight receive buffers of 4 KiB; turns lets the device work.
var (
	buffers = program{opBuffers, 7, 0xd4, 0x0f, 0}
	turns   = program{opTurns, 8}
)

// seeds reach the states that are worth to start from.
var seeds = []program{
	join(with(everything), guestConnects(1), toHost, toGuest, halfClose),
	join(with(everything|withPacked), guestConnects(1), toHost, toGuest, halfClose),
	join(with(everything), guestConnects(2), toHost, toGuest, toHost, halfClose),
	join(with(everything|withPacked), guestConnects(2), toHost, toGuest, toHost, halfClose),
	join(with(everything), hostConnects(1), toHost, toGuest, halfClose),
	join(with(everything|withPacked), hostConnects(2), toHost, toGuest, halfClose),
	join(with(withSmallRing), hostConnects(1), toHost, toGuest, toHost),
	join(with(withPacked|withSmallRing), guestConnects(1), toHost, toGuest, toHost),
	join(with(everything), guestConnects(1), toHost, program{opStop, 0, opStop, 1}, toGuest, program{opStop, 0, opStop, 1}, turns, toHost),
	join(with(everything|withPacked), guestConnects(1), toHost, program{opStop, 1, opSend, 0, 9, 0, 0, 1, opStop, 1}, turns, toGuest),
	join(with(everything), guestConnects(1), program{opNewDriver, 0}, turns, guestConnects(1), toHost),
	join(with(everything|withPacked), hostConnects(1), program{opNewDriver, 1}, turns, hostConnects(1), toGuest),
	join(with(everything), guestConnects(1), program{opStop, 0, opStop, 1, opStop, 2, opState, 0}, turns, program{opState, 1}, turns, program{opStop, 0, opStop, 1, opStop, 2}, buffers, turns),
	join(with(everything), guestConnects(1), program{opCID, 2}, turns, buffers, turns, guestConnects(1)),
	join(with(everything), guestConnects(1), program{opSession}, turns, buffers, turns, guestConnects(1), toHost),
	join(with(0), hostConnects(1), program{opTime, 2}, turns, program{opTime, 3}, turns, program{opShut, 0, 3}, turns, program{opTime, 3}, turns),
	join(with(everything), guestConnects(1), program{opPacket, 0, 5, 0x40, 9, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1}, turns),
	join(with(everything), guestConnects(1), program{opPacket, 0, 9, 0, 0, 0, 0}, turns),
	join(with(everything), guestConnects(1), program{opChain, 1, 2, 1, 0, 1, 44, 0, 1, 3, 0, 2, 44, 0, 2, 0}, turns),
	join(with(withPacked), guestConnects(1), program{opChain, 1, 2, 1, 0, 1, 44, 0, 1, 3, 0, 2, 44, 0, 2, 0}, turns),
	join(with(everything), guestConnects(1), program{opWord, 1, 1, 2, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0}, turns),
	join(with(everything), guestConnects(1), program{opMessage, 34, 0, 0}, turns, program{opMessage, 11, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0}, turns),
	join(with(0), guestConnects(1), program{opStop, 1}, turns, program{opMessage, 10, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0, opMessage, 12, 0x40, 8, 1, 0, 0, 0, 0, 0, 0, 0}, turns),
	join(with(everything), guestConnects(1), program{opShrink, 0, 0, 0}, toHost),
	join(with(0), program{opConnect, 0, 1, 0, opClient, 0, 10}, program("CONNECT 1\n"), buffers, turns, program{opClient, 0, 3, 'a', 'b', 'c'}, turns, buffers, turns),
	join(with(everything), guestConnects(1), flood, program{opRead, 0, 2}, turns, program{opSay, 0, 4}, turns, program{opRead, 0, 7}, turns),
	join(with(everything|withPacked), guestConnects(2), flood, program{opRead, 0, 2}, turns, flood, program{opRead, 0, 7}, turns),
	join(with(everything), guestConnects(1), flood, program{opSession}, turns, program{opRead, 0, 7}, turns, program{opRead, 0, 7}),
	join(with(everything), guestConnects(1), flood, program{opNewDriver, 1}, turns, program{opRead, 0, 7}, turns, program{opRead, 0, 7}),
	join(with(everything), guestConnects(1), flood, program{opShut, 0, 3}, turns),
	join(with(everything), guestConnects(2), flood, program{opShut, 0, 3}, turns),
	join(with(everything), guestConnects(1), program{opShut, 0, 0}, toHost, toGuest),
	join(with(everything), guestConnects(2), program{opShut, 0, 0}, toHost, toGuest),
	join(with(0), buffers, program{opListen, 1, 0, opRequest, 0, 1, 1}, turns, turns, toGuest, toGuest),
	join(with(everything|withPacked), buffers, program{opListen, 1, 1, opRequest, 1, 1, 5}, turns, turns, toGuest, toGuest),
	join(with(everything|withAcks|withChannel|withSlots), guestConnects(1), toHost, program{opMemory, 2}, toGuest, program{opMemory, 0}, toHost),
	join(with(everything|withAcks|withPacked), guestConnects(1), toHost, program{opMemory, 0}, toGuest, program{opMemory, 0}, toHost),
	join(with(everything|withInBand), guestConnects(1), toHost, toGuest, program{opStop, 0, opStop, 1}, turns, program{opStop, 0, opStop, 1}, toHost, toGuest),
	join(with(everything|withInBand|withPacked|withSlots), hostConnects(2), toHost, program{opMemory, 3}, toGuest, halfClose),
	join(with(everything|withAcks), guestConnects(1), program{opEnable, 0, opEnable, 1}, toHost, program{opEnable, 1}, toGuest, program{opEnable, 0}, toGuest),
	join(with(everything|withPacked), guestConnects(1), program{opEnable, 1}, toHost, program{opStop, 1}, turns, program{opStop, 1}, toHost),
	join(with(everything|withAcks), guestConnects(1), program{opLog, 1, opBuffers, 3, 0, 0x60, 2}, toGuest, program{opLog, 2}, toHost, toGuest, program{opLog, 0}, toGuest),
	join(with(everything|withPacked), guestConnects(2), program{opLog, 1}, toGuest, toHost, program{opStop, 0, opLog, 1, opStop, 0}, toGuest),
	join(with(everything), guestConnects(1), program{opSend | atOnce, 0, 100, 0, 1, 1, opStop, 1}, turns, toHost, program{opSend | atOnce, 0, 100, 0, 1, 1, opSession}, turns, program{opRead, 0, 7, opRead, 0, 7}),
	join(with(0), guestConnects(1), program{opNotifier, 1, 2}, turns, toHost),
	join(with(0), guestConnects(1), program{opNotifier, 0, 2, opNotifier, 1, 2}, toHost, program{opTime, 0}, toHost, toGuest, program{opNotifier, 1, 1, opNotifier, 1, 0, opNotifier, 0, 1}, toHost),
	join(with(everything|withChannel), guestConnects(1), program{opCID, 1}, turns, turns, guestConnects(1), toHost),
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
	// flood sends more than a host socket takes.
	flood = join(
		program{opSend, 0, 0, 0xf0, 2, 1, opSend, 0, 0, 0xf0, 2, 1}, turns, buffers,
		program{opSend, 0, 0, 0xf0, 2, 1, opSend, 0, 0, 0xf0, 2, 1, opSend, 0, 0, 0xf0, 2, 1}, turns)
	halfClose = join(
		program{opSay, 0, 3}, turns, program{opRead, 0, 3, opWrite, 0, 9, 0, opShut, 0, 1}, turns, buffers, turns, program{opSay, 0, 4}, turns)
)

func join(parts ...program) (whole program) {
	for _, p := range parts {
		whole = append(whole, p...)
	}
	return whole
}
