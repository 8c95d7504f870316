function __signalman
  set -l words (commandline -opc)
  set -l found ($words[1] complete -- $words[2..] 2>/dev/null)
  if set -q found[1]
    printf '%s\n' $found
  else
    __fish_complete_path (commandline -ct)
  end
end
complete -c signalman -f -a '(__signalman)'
