// Package virtqueue is the device side of a virtqueue, split or packed (virtio
// v1.4 §2.7, §2.8).
//
// A Queue hands out the descriptor chains that a driver made available and gives
// them back as used. One turn of a device reads
//
//	for c, ok := q.Pop(&bufs); ok; c, ok = q.Pop(&bufs) {
//		n := serve(c)           // unless c.Err is set
//		q.Push(c.Head, n)
//	}
//	q.NotifyIfNeeded()          // at most one interrupt a batch
//	again := q.ArmKick()        // before sleeping
//
// The driver is not trusted. Two classes of fault are told apart. A chain that
// cannot be served but whose end is known is handed out with its Err set, to be
// pushed with length 0: no descriptor is lost. A ring whose structure is wrong is
// broken for good: Pop answers nothing more, and OnBroken has been called.
//
// Descriptors are read once into private memory. The device writes nothing but
// the used ring, or used descriptors, and, through the buffers it was given, what
// writable descriptors name. It keeps its own copy of its position and reads
// used.idx only at the start.
//
// A Queue is confined to one goroutine. Users see chains, positions and
// notifications only, nothing of the layout: each method asks once which it is,
// so that split rings, which nearly all guests have, pay a branch for the other.
//
// While a guest migrates, SetLog has everything that the device writes marked in
// the frontend's dirty log.
package virtqueue
