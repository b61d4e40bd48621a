package main

import (
	"fmt"
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/ctl"
)

const manBeginning = `.TH VHOST\-USER\-VSOCK 8 "" "vhost\-user\-vsock %s"
.SH NAME
vhost\-user\-vsock \- virtio\-vsock device for virtual machines
.SH SYNOPSIS
.nf
\fBvhost\-user\-vsock\fR \fB\-\-socket\fR \fIPATH\fR \fB\-\-uds\-path\fR \fIPATH\fR [\fIoptions\fR]
\fBvhost\-user\-vsock\fR \fB\-\-fd\fR \fIN\fR \fB\-\-uds\-path\fR \fIPATH\fR [\fIoptions\fR]
\fBvhost\-user\-vsock\fR \fB\-\-vm\fR \fBsocket=\fIPATH\fB,uds\-path=\fIPATH\fR[,...] \fB\-\-vm\fR ... [\fIoptions\fR]
\fBvhost\-user\-vsock\fR \fB\-\-config\fR \fIFILE\fR [\fIoptions\fR]
\fBvhost\-user\-vsock ctl\fR [\fIoptions\fR] \fICOMMAND\fR
.fi
.SH DESCRIPTION
.B vhost\-user\-vsock
gives a virtual machine a virtio\-vsock device over the vhost\-user protocol and
joins the guest's connections to AF_UNIX sockets of the host.
A host program reaches a port of the guest by a line
.RI \(dq CONNECT " port" \(dq
at the
.B \-\-uds\-path
socket; the guest reaches the program that listens at that path with an underscore
and the port behind it.
.PP
Guest memory must be shared with the daemon.
QEMU and User\-Mode Linux never reconnect: start the daemon first and let it live as
long as the VM.
.SH OPTIONS
Each is marked that may also be a key of
.B \-\-vm
or of the configuration file.
`

const manClient = `.SH CONTROL
.B vhost\-user\-vsock ctl
looks after a running daemon that was started with
.BR \-\-control .
Its commands are
`

const manEnd = `.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
End within a second: guests get RST, host programs end of file. For a VM whose event
loop hangs it waits 3 s longer, and exits with 1.
.TP
.B SIGHUP
Read the files of
.BR \-\-config " and " \-\-guest\-cid
again.
.SH ENVIRONMENT
.TP
.BR LISTEN_PID ", " LISTEN_FDS ", " LISTEN_FDNAMES
Sockets that the service manager made, used in place of those of the options; see
.BR sd_listen_fds (3).
Their names are
.IR VM /socket,
.IR VM /uds\-path,
.IR VM /uds\-path_seqpacket
and metrics\-addr; others go by their addresses.
.TP
.BR NOTIFY_SOCKET ", " WATCHDOG_USEC ", " WATCHDOG_PID
Where and how often the service manager is told how the program is; see
.BR sd_notify (3).
.SH EXIT STATUS
.TP
.B 0
It ended as asked.
.TP
.B 1
It failed at run time.
.TP
.B 2
The command line or the file is wrong; nothing was created.
.SH FILES
.TP
.I /etc/vhost\-user\-vsock/NAME.yaml
The configuration file of the unit
.IR vhost\-user\-vsock@NAME.service ,
whose sockets
.I vhost\-user\-vsock@NAME.socket
can have systemd make.
.TP
.I /run/vhost\-user\-vsock/NAME
The directory that the unit makes for its sockets.
Without a drop\-in it can make them nowhere else.
.TP
.I /run/vhost\-user\-vsock/NAME/control.sock
The control socket of the unit, where its file has this path as
.BR control .
.nf
\fBvhost\-user\-vsock ctl \-\-control /run/vhost\-user\-vsock/\fINAME\fB/control.sock vms\fR
.fi
.TP
.I /run/vhost\-user\-vsock/control.sock
Where
.B ctl
looks for the control socket without
.BR \-\-control .
.TP
.I /usr/share/doc/vhost\-user\-vsock/CONFIG.md
What the configuration file may hold.
.TP
.I /usr/share/doc/vhost\-user\-vsock/CONTROL.md
What is spoken on the control socket.
.SH SEE ALSO
.BR vsock (7),
.BR unix (7),
.BR systemd.service (5),
.BR systemd.socket (5)
`

// manPage returns the page in the man macros. It has no date, so that it is the
// same whenever it is made.
func manPage(version string, groups []config.FlagGroup) string {
	var b strings.Builder
	fmt.Fprintf(&b, manBeginning, roff(version))
	for _, g := range groups {
		fmt.Fprintf(&b, ".SS %s\n", roff(g.Title))
		for _, f := range g.Flags {
			b.WriteString(manFlag(f))
			if keys := manKeys(f); keys != "" {
				b.WriteString(keys + "\n")
			}
		}
	}
	b.WriteString(manClient)
	for _, c := range ctl.Commands() {
		tag := `\fB` + roff(c.Name) + `\fR`
		if c.Args != "" {
			tag += ` \fI` + roff(c.Args) + `\fR`
		}
		fmt.Fprintf(&b, ".TP\n%s\n%s\n", tag, roff(c.Help))
	}
	b.WriteString(".PP\nand its options, of which not every command takes all:\n")
	for _, f := range ctl.Flags() {
		b.WriteString(manFlag(f))
	}
	return b.String() + manEnd
}

// manFlag explains a flag.
func manFlag(f config.Flag) string {
	text := fmt.Sprintf(".TP\n%s\n%s\n", manTag(f), roff(f.Help))
	if f.Default != "" {
		text += fmt.Sprintf("Default: %s.\n", roff(f.Default))
	}
	return text
}

// manTag returns the flag with its value, by each of its names.
func manTag(f config.Flag) string {
	var spellings []string
	for _, s := range f.Spellings() {
		name, arg, hasArg := strings.Cut(s, " ")
		tag := `\fB` + roff(name) + `\fR`
		if hasArg {
			tag += ` \fI` + roff(arg) + `\fR`
		}
		spellings = append(spellings, tag)
	}
	return strings.Join(spellings, ", ")
}

// manKeys says where else the option may stand.
func manKeys(f config.Flag) string {
	switch {
	case f.InVM && f.InFile:
		return `Also a key of \fB\-\-vm\fR and, for a VM, of the file.`
	case f.InVM:
		return `Also a key of \fB\-\-vm\fR.`
	case f.InFile:
		return `Also a key of the file.`
	}
	return ""
}

// roff escapes text: a plain dash would be a hyphen, a backslash an escape, and a
// line that begins with a dot or a quote a request.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}
