package main

import (
	"fmt"
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/ctl"
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

// summary returns the first sentence of a help without its end, for a menu.
func summary(help string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(help, "Required. "), ". ")
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

// flagNames returns all flags as they are written.
func flagNames(groups []config.FlagGroup) (names []string) {
	eachName(groups, func(name string, _ config.Flag) { names = append(names, "--"+name) })
	return names
}

// clientFlags are those of ctl.
func clientFlags() []config.FlagGroup { return []config.FlagGroup{{Flags: ctl.Flags()}} }

// commandNames returns ctl's commands.
func commandNames() (names []string) {
	for _, c := range ctl.Commands() {
		names = append(names, c.Name)
	}
	return names
}

// clientSummary is what menus say of ctl.
const clientSummary = "Look after a running daemon"

// bashCompletion returns the completion for bash.
func bashCompletion(groups []config.FlagGroup) string {
	var b strings.Builder
	b.WriteString("# bash completion for " + config.Program + "\n\n_vhost_user_vsock() {\n" +
		"\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} first=\n\tCOMPREPLY=()\n" +
		"\tif [ \"$COMP_CWORD\" = 1 ]; then\n\t\tfirst=" + ctl.Name + "\n" +
		"\telif [ \"${COMP_WORDS[1]}\" = " + ctl.Name + " ]; then\n\t\t_vhost_user_vsock_ctl\n\t\treturn\n\tfi\n\tcase $prev in\n")
	b.WriteString(bashValues(groups))
	fmt.Fprintf(&b, "\t*) %s ;;\n\tesac\n}\n\n", bashWords("$first "+strings.Join(flagNames(groups), " ")))
	b.WriteString(bashClient())
	b.WriteString("complete -o filenames -F _vhost_user_vsock " + config.Program + "\n")
	return b.String()
}

// bashClient returns the function that completes what stands behind ctl.
func bashClient() string {
	var b strings.Builder
	b.WriteString("_vhost_user_vsock_ctl() {\n\tlocal word command=\n\tfor word in \"${COMP_WORDS[@]:2:COMP_CWORD-2}\"; do\n")
	fmt.Fprintf(&b, "\t\tcase $word in %s) command=$word ;; esac\n\tdone\n", strings.Join(commandNames(), " | "))
	b.WriteString("\tcase $prev in\n" + bashValues(clientFlags()) + "\t*) case $command in\n")
	fmt.Fprintf(&b, "\t\t'') %s ;;\n", bashWords(strings.Join(append(commandNames(), flagNames(clientFlags())...), " ")))
	for _, c := range ctl.Commands() {
		own := []config.FlagGroup{{Flags: c.Flags}}
		fmt.Fprintf(&b, "\t\t%s) %s ;;\n", c.Name, bashWords(strings.Join(append(flagNames(own), c.Choices...), " ")))
	}
	return b.String() + "\t\tesac ;;\n\tesac\n}\n\n"
}

// bashValues returns the cases of $prev that take a value, those with the same offer
// together.
func bashValues(groups []config.FlagGroup) string {
	byOffer := make(map[string][]string) // flags that have one offer
	var offers []string                  // in the order of the first flag
	eachName(groups, func(name string, f config.Flag) {
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
	for _, offer := range offers {
		fmt.Fprintf(&b, "\t%s) %s ;;\n", strings.Join(byOffer[offer], " | "), offer)
	}
	return b.String()
}

// bashWords returns the command that offers words.
func bashWords(words string) string {
	return fmt.Sprintf(`COMPREPLY=($(compgen -W "%s" -- "$cur"))`, words)
}

// bashOffer returns the command that offers values of the flag, or "" where it
// takes none.
func bashOffer(f config.Flag) string {
	switch valuesOf(f) {
	case noValue:
		return ""
	case choice:
		return bashWords(strings.Join(choices(f), " "))
	case file:
		return `mapfile -t COMPREPLY < <(compgen -f -- "$cur")`
	case directory:
		return `mapfile -t COMPREPLY < <(compgen -d -- "$cur")`
	}
	return ":"
}

// zshCompletion returns the completion for zsh.
func zshCompletion(groups []config.FlagGroup) string {
	return fmt.Sprintf("#compdef %s\n\nif (( CURRENT > 2 )) && [[ $words[2] == %s ]]; then\n", config.Program, ctl.Name) +
		"  shift words\n  (( CURRENT-- ))\n" +
		"  _arguments \\\n" + zshFlags(clientFlags()) +
		"    '1:command:(" + strings.Join(commandNames(), " ") + ")' \\\n    '*:argument: '\n" +
		"else\n  _arguments \\\n" + zshFlags(groups) +
		"    '1::command:(" + ctl.Name + ")'\nfi\n"
}

// zshFlags returns what _arguments is told of flags.
func zshFlags(groups []config.FlagGroup) string {
	quote := strings.NewReplacer(`'`, `'\''`, `[`, `\[`, `]`, `\]`, `:`, `\:`)
	var b strings.Builder
	eachName(groups, func(name string, f config.Flag) {
		fmt.Fprintf(&b, "    '*--%s[%s]", name, quote.Replace(summary(f.Help)))
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
	return b.String()
}

// fishCompletion returns the completion for fish.
func fishCompletion(groups []config.FlagGroup) string {
	const complete = "complete -c " + config.Program
	names := strings.Join(commandNames(), " ")
	var b strings.Builder
	b.WriteString(complete + " -f\n")
	fmt.Fprintf(&b, "%s -n __fish_use_subcommand -a %s -d '%s'\n", complete, ctl.Name, clientSummary)
	b.WriteString(fishFlags(complete+" -n 'not __fish_seen_subcommand_from "+ctl.Name+"'", groups))
	behind := complete + " -n '__fish_seen_subcommand_from " + ctl.Name
	for _, c := range ctl.Commands() {
		fmt.Fprintf(&b, "%s; and not __fish_seen_subcommand_from %s' -a %s -d '%s'\n", behind, names, c.Name, fishText(summary(c.Help)))
		if len(c.Choices) > 0 {
			fmt.Fprintf(&b, "%s; and __fish_seen_subcommand_from %s' -a '%s'\n", behind, c.Name, strings.Join(c.Choices, " "))
		}
	}
	b.WriteString(fishFlags(behind+"'", clientFlags()))
	return b.String()
}

// fishFlags returns a line for each flag that begins with complete.
func fishFlags(complete string, groups []config.FlagGroup) string {
	var b strings.Builder
	eachName(groups, func(name string, f config.Flag) {
		fmt.Fprintf(&b, "%s -l %s -d '%s'", complete, name, fishText(summary(f.Help)))
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

// fishText quotes text that stands between single quotes.
func fishText(text string) string { return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) }
