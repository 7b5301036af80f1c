-- Reads the breaker's word.
return word()
