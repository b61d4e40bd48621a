package main

import "github.com/vhost-user-vsock/vhost-user-vsock/csm"

// bufAlloc is the buffer of a Linux socket (SO_VM_SOCKETS_BUFFER_SIZE), and bounds what
// it has in flight towards the host, too.
const bufAlloc = 256 << 10

// conn is the guest's end of a connection.
type conn struct {
	guestPort, hostPort uint32
	open                bool
	shut                bool   // the guest has closed it
	hostShut            uint32 // what the host said in SHUTDOWN
	dirty               bool   // has consumed bytes since the driver last looked

	// Credit, virtio v1.4 §5.10.6.3.
	txCnt, peerFwdCnt, peerBufAlloc uint32
	fwdCnt, lastFwdCnt              uint32

	sent, received uint64 // bytes of payload
	left           int    // bytes of the chunk that is being sent: credit may split it
}

// space returns how many bytes may be sent now.
func (c *conn) space() uint32 {
	window, used := min(c.peerBufAlloc, bufAlloc), c.txCnt-c.peerFwdCnt
	if used > window {
		return 0
	}
	return window - used
}

// header returns the header of a packet, which tells the credit.
func (c *conn) header(op csm.Op, n int) csm.Header {
	c.lastFwdCnt = c.fwdCnt
	return csm.Header{
		SrcCID: guestCID, DstCID: csm.HostCID, SrcPort: c.guestPort, DstPort: c.hostPort,
		Len: uint32(n), Type: csm.TypeStream, Op: op, BufAlloc: bufAlloc, FwdCnt: c.fwdCnt,
	}
}
