// Package vhostuser is the backend side of the vhost-user protocol: it takes
// the connections of frontends, holds one session at a time, and hands the
// running rings of that session to a Device. It knows nothing of what the
// device does with them.
//
// A frontend (QEMU, User-Mode Linux, cloud-hypervisor, crosvm, OpenVMM) sends
// messages over an AF_UNIX stream socket:
//
//	 0        4        8        12
//	+--------+--------+--------+------------------+
//	| request| flags  | size   | payload ...      |   descriptors ride along
//	+--------+--------+--------+------------------+
//
// The way of a message: conn assembles it from however many pieces it comes in;
// dispatch compares it with the table of rules, so that a handler only ever
// sees a message of the right size with the right number of descriptors; the
// handler changes the session's state; settle starts and stops rings until they
// agree with that state; and only then the reply or acknowledgement leaves. A
// message that fails leaves the state as it was.
//
// The life of a ring:
//
//	         NUM, ADDR, KICK, ENABLE 1, features and memory are there
//	stopped ---------------------------------------------------------> running
//	        <---------------------------------------------------------
//	         ENABLE 0, GET_VRING_BASE, RESET_DEVICE, memory gone, end
//
// With INBAND_NOTIFICATIONS ENABLE 1 does for KICK. When a ring stops its position
// is kept. When rings start, a ring whose addresses, base or used index differ
// from that position has a driver that began anew, and the device is reset before
// it sees the ring; a ring that was in use before the session has a driver that
// goes on, and the device is told to inherit it.
//
// All of it belongs to the goroutine of the event loop.
package vhostuser
