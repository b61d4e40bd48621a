package tests

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// What a driver does to a packed ring that carries a connection.
func TestAdversarialPackedRings(t *testing.T) {
	t.Parallel()
	confront(t, newHost(t, "--packed"), packedInputs)
}

var packedRings = vhostusertest.GuestOptions{Packed: true}

// slots posts descriptors as one chain, with the last one's id.
func slots(descs ...virtqueuetest.PackedDesc) ringEdit {
	return func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.PostSlots(descs...) }
}

// tableOf posts a reference to an indirect table.
func tableOf(length uint32, flags uint16, descs ...virtqueuetest.PackedDesc) ringEdit {
	return func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		mem.PutPackedTable(inRAM+page, descs...)
		r.PostSlots(virtqueuetest.PackedDesc{Addr: inRAM + page, Len: length, ID: last, Flags: refers | flags})
	}
}

func packedBreaks(name string, ring int, reason string, edit ringEdit) input {
	return input{name, func(h *host) { h.trialOf(packedRings, ring).mustBreak(ring, reason, edit) }}
}

func packedDropped(name string, ring, bad int, edit ringEdit) input {
	return input{name, func(h *host) { h.trialOf(packedRings, ring).mustDrop(ring, bad, edit) }}
}

// packedHeader is 44 bytes without any sense, or where they are not there.
func packedHeader(addr uint64, id, flags uint16) virtqueuetest.PackedDesc {
	return virtqueuetest.PackedDesc{Addr: addr, Len: csm.HeaderSize, ID: id, Flags: flags}
}

var packedInputs = []input{
	{"72 packed: nothing wrong", func(h *host) {
		b := h.plug(h.t, vhostusertest.QEMU10, packedRings)
		b.start()
		b.mustWork(64 * kib)
		b.powerOff()
	}},
	{"72 packed: flag soup", func(h *host) {
		for seed := range uint64(10) {
			rng := rand.New(rand.NewPCG(seed, 72))
			x := h.trialOf(packedRings, tx)
			r := x.memory.Tx()
			for range 200 {
				r.SetSlot(rng.IntN(size), virtqueuetest.PackedDesc{
					Addr: inRAM + rng.Uint64N(page), Len: rng.Uint32N(100), ID: uint16(rng.IntN(2 * size)), Flags: uint16(rng.Uint32()),
				})
				r.ForceKick()
			}
			x.frontend.Barrier()
			h.mustIdle()
			x.frontend.Close()
		}
	}},
	packedBreaks("72 packed: id out of range", tx, "descriptor_index", slots(packedHeader(inRAM, size, 0))),
	packedBreaks("72 packed: id 65535", tx, "descriptor_index", slots(packedHeader(inRAM, math.MaxUint16, 0))),
	packedDropped("72 packed: id of another chain", tx, 0, slots(packedHeader(inRAM, last, 0))),
	packedBreaks("72 packed: chain never ends", tx, "loop", func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		var all []virtqueuetest.PackedDesc
		for range size {
			all = append(all, packedHeader(inRAM, last, next))
		}
		r.PostSlots(all...)
	}),
	packedBreaks("72 packed: chain cut off", tx, "loop", slots(packedHeader(inRAM, last, next))),
	packedDropped("72 packed: wrap flip", tx, 0, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for i := range size { // as if available in the next lap
			r.SetSlot(i, packedHeader(inRAM, last, virtqueuetest.Used))
		}
	}),
	packedBreaks("72 packed: w-before-r", tx, "order", slots(packedHeader(inRAM, last, next|written), packedHeader(inRAM, last, 0))),
	packedBreaks("72 packed: indirect len 0", tx, "indirect", tableOf(0, 0)),
	packedBreaks("72 packed: indirect len 17", tx, "indirect", tableOf(17, 0)),
	packedBreaks("72 packed: indirect len 2^32-16", tx, "indirect", tableOf(math.MaxUint32-15, 0)),
	packedBreaks("72 packed: indirect nested", tx, "indirect", tableOf(16, 0, packedHeader(inRAM, 0, refers))),
	packedBreaks("72 packed: indirect behind a direct one", tx, "indirect", slots(
		packedHeader(inRAM, last, next), virtqueuetest.PackedDesc{Addr: inRAM, Len: 16, ID: last, Flags: refers})),
	packedBreaks("72 packed: indirect OOR", tx, "indirect", slots(virtqueuetest.PackedDesc{Addr: 1 << 50, Len: 16, ID: last, Flags: refers})),
	packedDropped("72 packed: oor-gpa", tx, 1, slots(packedHeader(1<<50, last, 0))),
	packedDropped("72 packed: gpa 2^64-1", tx, 1, slots(packedHeader(math.MaxUint64, last, 0))),
	packedDropped("72 packed: oor-gpa, rx", rx, 1, slots(packedHeader(1<<50, last, written))),
	packedDropped("72 packed: tx-with-W", tx, 0, slots(packedHeader(inRAM, last, written))),
	packedDropped("72 packed: event flags and places", tx, 0, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for i := range 1 << 16 {
			r.SetDriverEvent(uint16(i), uint16(i%5))
		}
	}),
	{"72 packed: base 0", func(h *host) {
		b := h.plug(h.t, vhostusertest.UML, packedRings) // which has no other
		b.relayed = true
		b.start()
		b.mustWork(64 * kib)
		b.powerOff()
	}},
	{"72 packed: base out of range", func(h *host) {
		b := h.plug(h.t, vhostusertest.QEMU10, packedRings)
		b.start()
		for _, base := range []uint32{size, size << 16, size | 1<<15, math.MaxUint32} {
			b.frontend.GetVringBase(event)
			for _, m := range aboutRing(event) {
				if m.request == vhostuser.MsgSetVringBase {
					m.payload = state(event, base)
				}
				m.ack(b)
			}
			b.mustWork(kib)
			h.mustIdle()
		}
		b.powerOff()
	}},
}
