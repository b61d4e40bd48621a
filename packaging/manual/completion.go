package main

import (
	"fmt"
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

// values is what a shell can offer for the value of a flag.
type values int

const (
	noValue   values = iota // the flag takes none
	anyValue                // nothing can be offered
	choice                  // the words of choices
	file                    // the path of a file
	directory               // the path of a directory
)

// valuesOf tells by what the value is called.
func valuesOf(f config.Flag) values {
	switch f.Arg {
	case "":
		return noValue
	case "PATH", "FILE", "CID|FILE":
		return file
	case "DIR":
		return directory
	}
	if strings.Contains(f.Arg, "|") && strings.ToLower(f.Arg) == f.Arg {
		return choice
	}
	return anyValue
}

// choices returns the words of a choice.
func choices(f config.Flag) []string { return strings.Split(f.Arg, "|") }

// summary returns the first sentence of the help without its end, for a menu.
func summary(f config.Flag) string {
	help := strings.TrimPrefix(f.Help, "Required. ")
	first, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(first, ".")
}

// eachName visits every flag by each of its names.
func eachName(groups []config.FlagGroup, visit func(name string, f config.Flag)) {
	for _, g := range groups {
		for _, f := range g.Flags {
			visit(f.Name, f)
			if f.Alias != "" {
				visit(f.Alias, f)
			}
		}
	}
}

// bashCompletion returns the completion for bash.
func bashCompletion(groups []config.FlagGroup) string {
	var names []string
	byOffer := make(map[string][]string) // flags that have one offer
	var offers []string                  // in the order of the first flag
	eachName(groups, func(name string, f config.Flag) {
		names = append(names, "--"+name)
		offer := bashOffer(f)
		if offer == "" {
			return
		}
		if byOffer[offer] == nil {
			offers = append(offers, offer)
		}
		byOffer[offer] = append(byOffer[offer], "--"+name)
	})
	var b strings.Builder
	b.WriteString("# bash completion for " + config.Program + "\n\n_vhost_user_vsock() {\n" +
		"\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n\tCOMPREPLY=()\n\tcase $prev in\n")
	for _, offer := range offers {
		fmt.Fprintf(&b, "\t%s) %s ;;\n", strings.Join(byOffer[offer], " | "), offer)
	}
	fmt.Fprintf(&b, "\t*) COMPREPLY=($(compgen -W '%s' -- \"$cur\")) ;;\n\tesac\n}\n\n", strings.Join(names, " "))
	b.WriteString("complete -o filenames -F _vhost_user_vsock " + config.Program + "\n")
	return b.String()
}

// bashOffer returns the command that offers values of the flag, or "" where it
// takes none.
func bashOffer(f config.Flag) string {
	switch valuesOf(f) {
	case noValue:
		return ""
	case choice:
		return fmt.Sprintf(`COMPREPLY=($(compgen -W '%s' -- "$cur"))`, strings.Join(choices(f), " "))
	case file:
		return `mapfile -t COMPREPLY < <(compgen -f -- "$cur")`
	case directory:
		return `mapfile -t COMPREPLY < <(compgen -d -- "$cur")`
	}
	return ":"
}

// zshCompletion returns the completion for zsh.
func zshCompletion(groups []config.FlagGroup) string {
	quote := strings.NewReplacer(`'`, `'\''`, `[`, `\[`, `]`, `\]`, `:`, `\:`)
	var b strings.Builder
	fmt.Fprintf(&b, "#compdef %s\n\n_arguments \\\n", config.Program)
	eachName(groups, func(name string, f config.Flag) {
		fmt.Fprintf(&b, "  '*--%s[%s]", name, quote.Replace(summary(f)))
		arg := quote.Replace(f.Arg)
		switch valuesOf(f) {
		case choice:
			fmt.Fprintf(&b, ":%s:(%s)", arg, strings.Join(choices(f), " "))
		case file:
			fmt.Fprintf(&b, ":%s:_files", arg)
		case directory:
			fmt.Fprintf(&b, ":%s:_files -/", arg)
		case anyValue:
			fmt.Fprintf(&b, ":%s: ", arg)
		}
		b.WriteString("' \\\n")
	})
	return strings.TrimSuffix(b.String(), " \\\n") + "\n"
}

// fishCompletion returns the completion for fish.
func fishCompletion(groups []config.FlagGroup) string {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	var b strings.Builder
	fmt.Fprintf(&b, "complete -c %s -f\n", config.Program)
	eachName(groups, func(name string, f config.Flag) {
		fmt.Fprintf(&b, "complete -c %s -l %s -d '%s'", config.Program, name, quote.Replace(summary(f)))
		switch valuesOf(f) {
		case choice:
			fmt.Fprintf(&b, " -x -a '%s'", strings.Join(choices(f), " "))
		case file:
			b.WriteString(" -r -F")
		case directory:
			b.WriteString(" -x -a '(__fish_complete_directories)'")
		case anyValue:
			b.WriteString(" -x")
		}
		b.WriteByte('\n')
	})
	return b.String()
}
