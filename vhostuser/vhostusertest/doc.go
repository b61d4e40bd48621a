// Package vhostusertest is the frontend's side of vhost-user, for tests of
// backends: in one process with them, or against a program that listens.
//
// A Frontend sends messages, well-formed ones through a method for each and any
// others as raw bytes and descriptors, and receives replies with a deadline. A
// Guest is the memory and the rings that the messages are about; its rings are
// drivers of package virtqueuetest. A Peer replays, message by message, what
// one real frontend sends in the life of a guest:
//
//	f := vhostusertest.Dial(t, path)
//	guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
//	peer := vhostusertest.QEMU10(f, guest)
//	peer.Init()
//	peer.Start()
//	guest.Tx().Add(guest.Memory.Out(packet))
//	guest.Tx().Kick()
//
// What does not go as expected fails the test at once, so all of this belongs
// to the goroutine of the test.
package vhostusertest
