// Package virtqueuetest is the guest's side of a virtqueue, split or packed: a
// driver in memory of its own, for tests and benchmarks of devices.
//
// Memory is the guest's RAM, one memfd for each extent, which tests pass to the
// device as a frontend does. It is mapped here a second time, so that driver and
// device meet in the pages only, as in life. Ring is a driver that behaves:
//
//	mem := virtqueuetest.NewMemory(t)
//	ring := virtqueuetest.NewRing(t, mem, virtqueuetest.Options{Size: 256, EventIdx: true})
//	q, err := virtqueue.New(mem.Table(t), ring.Config(), ring.Base())
//	q.Interrupt = ring.Interrupt
//
//	ring.Add(mem.Out([]byte("to the device")), mem.In(64))
//	ring.Kick()             // publishes, and writes the kick eventfd if the device wants it
//	...
//	elem, ok := ring.Used() // what came back
//
// Chains are direct (Add), indirect (AddIndirect) or direct with an indirect end
// (AddMixed); the Set methods, Post and PutTable let a driver misbehave in every
// way, and SetSlot, PostSlots and PutPackedTable that of a packed ring.
// ArmInterrupt, ShouldKick and their like follow virtio v1.4 §2.7.7, §2.7.10 and
// §2.8.10, with VIRTIO_F_EVENT_IDX and without.
//
// A Ring is confined to one goroutine, which need not be the device's: all that
// they share they share through the ring. Misuse by the test itself panics.
package virtqueuetest
