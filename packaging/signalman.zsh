#compdef signalman
_signalman() {
  local -a found
  found=(${(f)"$("${words[1]}" complete -- "${(@)words[2,CURRENT-1]}" 2>/dev/null | sed 's/:/\\:/g' | tr '\t' ':')"})
  _describe signalman found || _files
}
if [[ $funcstack[1] == _signalman ]]; then _signalman; else compdef _signalman signalman; fi
