package control

import "encoding/json"

// State is where a VM stands.
type State string

const (
	Waiting   State = "waiting"   // for a frontend
	Connected State = "connected" // a frontend is there, the driver is not up
	Running   State = "running"   // the driver is up
	Draining  State = "draining"  // it takes no new connections and ends with the last
	Failed    State = "failed"    // see VM.Error
)

// Origin says where a VM comes from.
type Origin string

const (
	FromConfig  Origin = "config"  // the command line or the configuration file
	FromControl Origin = "control" // this interface
)

// VM is one virtual machine. Directions are named from the guest: rx is towards it,
// tx comes from it. Bytes and packets count from the VM's start.
type VM struct {
	Name     string `json:"name"`
	State    State  `json:"state"`
	Error    string `json:"error,omitempty"` // of one that has failed
	Origin   Origin `json:"origin"`
	GuestCID uint64 `json:"guest_cid"`
	Socket   string `json:"socket,omitempty"` // empty where it was inherited without a name
	UDSPath  string `json:"uds_path"`

	Connections    int64 `json:"connections"` // host sockets that count against the limit
	MaxConnections int64 `json:"max_connections"`
	BufferedBytes  int64 `json:"buffered_bytes"` // held for host programs that do not read
	MaxBuffered    int64 `json:"max_buffered"`

	TxBytes   uint64 `json:"tx_bytes"`
	RxBytes   uint64 `json:"rx_bytes"`
	TxPackets uint64 `json:"tx_packets"`
	RxPackets uint64 `json:"rx_packets"`

	UptimeSeconds  float64       `json:"uptime_seconds"`
	WaitingOptions []string      `json:"waiting_options,omitempty"` // changed, and in force when the frontend has left
	StalledSeconds *StallSeconds `json:"stalled_seconds,omitempty"`
}

// StallSeconds is how long bytes have waited in all, by what they waited for.
type StallSeconds struct {
	Credit     float64 `json:"credit"`      // buffer space in the guest
	RxBuffers  float64 `json:"rx_buffers"`  // receive buffers of the guest's driver
	HostSocket float64 `json:"host_socket"` // a host program that does not read
}

// Connection is one host socket with the guest's connection that it serves.
type Connection struct {
	VM            string  `json:"vm"`
	Type          string  `json:"type"` // "stream" or "seqpacket"
	GuestPort     uint32  `json:"guest_port"`
	HostPort      uint32  `json:"host_port"` // 0: the guest was not asked yet, and it has none
	InitiatedBy   string  `json:"initiated_by"`
	State         string  `json:"state"` // "connecting", "established", "half_closed", "closing" or "lingering"
	WaitsFor      Wait    `json:"waits_for"`
	AgeSeconds    float64 `json:"age_seconds"`
	TxBytes       uint64  `json:"tx_bytes"`       // from the guest
	RxBytes       uint64  `json:"rx_bytes"`       // to the guest
	CreditBytes   int     `json:"credit_bytes"`   // what the guest would take now
	BufferedBytes int     `json:"buffered_bytes"` // from the guest, and not yet with the host program

	StalledSeconds *StallSeconds `json:"stalled_seconds,omitempty"`
}

// ConnectionList is the connections of a VM, or of all VMs.
type ConnectionList struct {
	Connections []Connection `json:"connections"`
	// Unanswered names the VMs whose event loops did not answer in time. None of their
	// connections is listed.
	Unanswered []string `json:"unanswered,omitempty"`
}

// Wait is what a connection waits for.
type Wait string

const (
	WaitNothing     Wait = ""
	WaitConnectLine Wait = "connect_line"      // the host program has yet to say CONNECT
	WaitDriver      Wait = "driver"            // the guest's driver is not up, or paused
	WaitListener    Wait = "listener_in_guest" // the guest's program does not listen yet
	WaitGuestAnswer Wait = "guest_answer"      // to a REQUEST, or to SHUTDOWN
	WaitHostBacklog Wait = "host_backlog"      // the host program does not accept
	WaitGuestCredit Wait = "guest_credit"      // the guest's program does not read
	WaitRxBuffers   Wait = "rx_buffers"        // the guest's driver has no receive buffers
	WaitHostSocket  Wait = "host_socket"       // the host program does not read
)

// DrainResult is what came of a drain.
type DrainResult struct {
	ConnectionsCut int64 `json:"connections_cut"` // that were not over in time
}

// Bodies of requests and answers. What describes a VM to be added is an object
// with the keys of a VM in the configuration file.
type (
	vmList struct {
		VMs []VM `json:"vms"`
	}
	drainRequest struct {
		Timeout string `json:"timeout"`
	}
	logLevel struct {
		Level string `json:"level"`
	}
	failure struct {
		Error string `json:"error"`
	}
)

// Keys are a VM to be added: a JSON object with the keys that a VM has in the
// configuration file.
type Keys = json.RawMessage

// Error is a request that was refused.
type Error struct {
	Status int    // of HTTP: 400, 404, 409 or 503
	Text   string // one sentence
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }
