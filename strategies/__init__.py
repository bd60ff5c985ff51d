"""The strategies that come with visprompt, one module each; plug-ins register theirs through the same entry points."""
