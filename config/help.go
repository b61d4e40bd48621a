package config

import (
	"fmt"
	"strings"
)

// helpWidth is the number of columns that help lines stay within.
const helpWidth = 80

const helpIntro = `vhost-user-vsock gives a virtual machine a virtio-vsock device and joins the
guest's connections to AF_UNIX sockets of the host.

Usage:
  vhost-user-vsock --socket PATH --uds-path PATH [options]
  vhost-user-vsock --fd N --uds-path PATH [options]
  vhost-user-vsock --vm socket=PATH,uds-path=PATH[,...] --vm ... [options]
  vhost-user-vsock --config FILE [options]
  vhost-user-vsock --control PATH [options]
  vhost-user-vsock ctl COMMAND      talks to a running one: ctl --help
`

const helpExamples = `
Examples:
  One VM with CID 3, and metrics:
    vhost-user-vsock --socket /run/vsock.sock --uds-path /tmp/vm.vsock \
        --guest-cid 3 --metrics-addr 127.0.0.1:9101

  QEMU as its frontend (guest memory must be shared):
    qemu-system-x86_64 -m 1G \
        -object memory-backend-memfd,id=mem,size=1G,share=on \
        -machine q35,memory-backend=mem \
        -chardev socket,id=vsock,path=/run/vsock.sock \
        -device vhost-user-vsock-pci,chardev=vsock ...

  From the host to port 22 of the guest:
    (echo "CONNECT 22"; cat) | socat - UNIX-CONNECT:/tmp/vm.vsock

  From the guest to a program of the host on port 1234:
    socat UNIX-LISTEN:/tmp/vm.vsock_1234,fork -     # host
    socat - VSOCK-CONNECT:2:1234                    # guest

  Members of group kvm may connect to the guest:
    vhost-user-vsock --socket /run/vsock.sock --uds-path /tmp/vm.vsock \
        --uds-mode 0660 --uds-owner root:kvm

  Two VMs, both with packed rings:
    vhost-user-vsock --packed \
        --vm name=web,guest-cid=3,socket=/run/web.sock,uds-path=/tmp/web.vsock \
        --vm name=db,guest-cid=4,socket=/run/db.sock,uds-path=/tmp/db.vsock

Exit codes: 0 ended as asked, 1 failed at run time, 2 wrong command line.
`

// HelpText is what --help prints.
func HelpText() string {
	var b strings.Builder
	b.WriteString(helpIntro)
	for _, g := range FlagGroups() {
		fmt.Fprintf(&b, "\n%s:\n", g.Title)
		for _, f := range g.Flags {
			b.WriteString(f.Usage())
		}
	}
	b.WriteString(helpExamples)
	return b.String()
}

// Usage is the flag's part of a help text.
func (f *Flag) Usage() string {
	text := f.Help
	if f.Default != "" {
		text += " Default: " + f.Default + "."
	}
	return HelpEntry(strings.Join(f.Spellings(), ", "), text)
}

// HelpEntry is a part of a help text: a head, and sentences that explain it.
func HelpEntry(head, text string) string { return "  " + head + "\n" + wrap(text, 6) }

// wrap breaks text into lines of helpWidth columns that begin with indent
// spaces.
func wrap(text string, indent int) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		switch {
		case column == 0:
			b.WriteString(strings.Repeat(" ", indent))
			column = indent
		case column+1+len(word) > helpWidth:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteByte('\n')
	return b.String()
}
