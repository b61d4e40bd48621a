package config

import (
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/activated"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/sandbox"
)

// Daemon is what the program is asked to do. It was found good: its VMs do not
// get into each other's way.
type Daemon struct {
	File string // the configuration file; empty: the command line says all
	VMs  []VM
	// Defaults hold for VMs that are added while the program runs.
	Defaults Defaults

	LogLevel    logrus.Level
	LogFormat   LogFormat
	MetricsAddr string // empty: no metrics
	Pprof       bool   // serve profiles there, too
	Control     string // path of the control socket; empty: none

	Sockets          []*activated.Socket // all that the service manager passed on
	ActivatedMetrics *activated.Socket   // that of MetricsAddr, or nil
	ActivatedControl *activated.Socket   // that of Control, or nil
	sole             string              // the only VM at the start; empty: there were several

	Sandbox     sandbox.Mode
	RuntimeDirs []string // where sockets of VMs to come may be
}

// VM is one virtual machine. Values can be compared.
type VM struct {
	Name  string // the vm label of its metrics and log lines
	Named bool   // it was given; else Name is made of the CID

	Frontend     Frontend
	Socket       string // path of SocketFile, else empty or the path that the socket has
	SocketAccess Access // of SocketFile
	FD           int    // of ListeningFD and ConnectedFD, else NoFD
	GuestCID     CIDSource
	Packed       bool // offer packed rings
	InBand       bool // offer notifications by messages

	UDSPath   string
	UDSAccess Access
	Activated Activated
	OKPort    muxer.OKPort

	WaitForGuest time.Duration // how long a CONNECT may wait for the guest to accept it

	MaxConnections int
	MaxBuffered    int64

	Poll time.Duration // how long to look for events before sleeping

	Trace string // absolute path of the file that packets are recorded in; empty: they are not
}

// Frontend is how a VM's frontends come.
type Frontend int

const (
	SocketFile  Frontend = iota // they connect to a socket that we make, or the service manager
	ListeningFD                 // they connect to one that --fd says
	ConnectedFD                 // there is just one, and --fd is its connection
)

// Access says who may connect to a socket file.
type Access struct {
	Mode     os.FileMode
	UID, GID int // Unchanged: as the kernel sets it
}

const (
	NoFD      = -1
	Unchanged = -1
)
