package script

import "time"

// ControlPort is the vsock port on which the guest takes requests. One
// connection carries one request and its response, a line of JSON each.
const ControlPort = 1

// Op is what a request asks of the guest.
type Op string

const (
	Hello    Op = "hello"    // who are you now
	Listen   Op = "listen"   // serve Steps on Port; answered once the port listens
	Reports  Op = "reports"  // the reports of the first Count connections on Port, once they ended
	Dial     Op = "dial"     // run Steps on Count connections to the host's Port, Parallel at a time
	Open     Op = "open"     // open Gate
	Rebind   Op = "rebind"   // take the driver from its device and give it back; no response, for the connection ends by it
	PowerOff Op = "poweroff" // no response
	Reboot   Op = "reboot"   // no response
)

// Request is the line the host sends.
type Request struct {
	Op         Op     `json:"op"`
	Port       uint32 `json:"port,omitempty"`
	Count      int    `json:"count,omitempty"`
	Parallel   int    `json:"parallel,omitempty"`
	Seqpacket  bool   `json:"seqpacket,omitempty"`   // SOCK_SEQPACKET, not SOCK_STREAM
	BufferSize uint64 `json:"buffer_size,omitempty"` // SO_VM_SOCKETS_BUFFER_SIZE, the kernel's own if 0
	Steps      []Step `json:"steps,omitempty"`
	Gate       string `json:"gate,omitempty"`
	Then       Op     `json:"then,omitempty"` // PowerOff or Reboot at once after Op, without a response
}

// Response is the line the guest answers.
type Response struct {
	Error   string     `json:"error,omitempty"`
	CID     uint32     `json:"cid,omitempty"`
	Kernel  string     `json:"kernel,omitempty"`
	Packed  bool       `json:"packed,omitempty"` // the device's rings are packed
	Reports []ConnInfo `json:"reports,omitempty"`
}

// ConnInfo is a Report and how long the connection took to set up.
type ConnInfo struct {
	Report
	Connect time.Duration `json:"connect,omitempty"`
}
